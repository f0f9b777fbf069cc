"""`keyvisor guest`: what a guest does with its HSMs, its secrets and its policy, and the programs that it runs.

Whatever talks to the firmware is loaded by the verb that needs it: `exec` and `env` need none of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_guest.cli import guest_secret
from keyvisor_guest.cli.exec import Surroundings, run
from keyvisor_guest.cli.guest_attest import attest
from keyvisor_guest.cli.guest_personalize import personalize
from keyvisor_guest.cli.options import ApqnArgument, GuestOption, JsonOption, StateOption, show
from keyvisor_guest.errors import PlanUnmet, SdkError
from keyvisor_guest.state_directory import state_directory
from keyvisor_policy.terminal import printable, verb

if TYPE_CHECKING:
    from keyvisor_guest.guest import Guest
    from keyvisor_guest.wire.messages import Hsm, Refusal

app = verb("A guest's own side: secrets, association, policy; run programs in it.", group=True)
app.command()(personalize)
app.add_typer(guest_secret.app, name="secret")
app.command()(attest)


def _guest(name: str, state: Path | None) -> Guest:
    from keyvisor_guest.guest import Guest

    return Guest(name, state=state)


def _say(hsm: Hsm) -> None:
    print(f"{hsm.apqn} is {hsm.state}")


@app.command()
def identity(guest: GuestOption, state: StateOption = None, as_json: JsonOption = False) -> None:
    """This instance's boot identity and CUID, which an owner makes secrets for."""
    found = _guest(guest, state).identity().model_dump(mode="json")
    show(found, ("part", "value"), list(found.items()), as_json=as_json)


@app.command()
def hsms(guest: GuestOption, state: StateOption = None, as_json: JsonOption = False) -> None:
    """The guest's HSMs: configuration data, and the state of each association."""
    found = _guest(guest, state).hsms()
    show(
        {"hsms": [hsm.model_dump(mode="json") for hsm in found]},
        ("HSM", "state", "mode", "generation", "serial", "MKVP", "online"),
        [
            (
                hsm.apqn,
                hsm.state,
                hsm.mode,
                hsm.generation,
                hsm.serial,
                hsm.mkvp or "none",
                "yes" if hsm.online else "no",
            )
            for hsm in found
        ],
        as_json=as_json,
        empty="no HSM is attached; the host does it with `keyvisor host attach`",
    )


@app.command()
def bind(apqn: ApqnArgument, guest: GuestOption, state: StateOption = None) -> None:
    """Bind an HSM: non-sensitive requests pass."""
    _say(_guest(guest, state).bind(apqn))


@app.command()
def unbind(apqn: ApqnArgument, guest: GuestOption, state: StateOption = None) -> None:
    """Unbind an HSM: nothing passes."""
    _say(_guest(guest, state).unbind(apqn))


@app.command()
def associate(
    apqn: ApqnArgument,
    secret: Annotated[str, typer.Option("--secret", metavar="NAME", help="The secret's name.")],
    guest: GuestOption,
    state: StateOption = None,
) -> None:
    """Associate a secret with a bound HSM: sensitive requests pass."""
    _say(_guest(guest, state).associate(apqn, secret))


@app.command()
def mechanisms(
    guest: GuestOption,
    hsm: Annotated[
        str | None, typer.Option("--hsm", metavar="APQN", help="The HSM; without it every bound one.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Per mechanism: whether the module has it, policy allows it, and the installed client carries it.

    A client drops what it cannot carry from every list that an application gets, and refuses it before anything is sent.
    """
    from keyvisor_guest.cli.mechanism_table import show_mechanisms
    from keyvisor_guest.client_release import release
    from keyvisor_guest.stock_client import find

    doors = _guest(guest, state)
    chosen = [hsm] if hsm else [one.apqn for one in doors.hsms() if one.state in ("bound", "associated")]
    if not chosen:
        raise SdkError(f"guest `{guest}` has bound no HSM: `keyvisor guest bind APQN` does")
    found = {apqn: doors.mechanisms(apqn) for apqn in chosen}
    show_mechanisms(found, release(find()), as_json=as_json)


@app.command()
def apply(
    guest: GuestOption,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            exists=True,
            dir_okay=False,
            readable=True,
            help="The policy; without it the one in the guest's image.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Apply what can be met; without it: all or nothing.")
    ] = False,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            help="--strict: nothing is applied unless every rule is met, as without an option. --no-strict, with "
            "--partial: an unmet rule does not end with 1.",
            show_default=False,
        ),
    ] = None,
    unbind: Annotated[
        bool,
        typer.Option(
            "--unbind",
            help="Unbind, too, what no rule wants; without it that stays as it is, where the policy allows it.",
        ),
    ] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a policy and make the HSMs what it asks for, all or nothing; show what was done, with reasons.

    Exit code 0: done, every rule is met. 1: one is not, or it was refused. 2: wrong command line.
    """
    from keyvisor_guest.cli.applied_table import print_applied, print_planned
    from keyvisor_guest.planning import AppliedPlan

    if partial and strict:
        raise typer.BadParameter(
            "goes without --partial: one applies all or nothing, the other what can be met",
            param_hint="--strict",
        )
    demanding = strict is not False
    try:
        plan = _guest(guest, state).apply(
            file, partial=partial, strict=demanding, unbind=unbind, dry_run=dry_run
        )
    except PlanUnmet as unmet:
        if isinstance(unmet.plan, AppliedPlan):
            print_applied(unmet.plan, as_json=as_json)
        else:
            print_planned(unmet.plan, applies=None, as_json=as_json)
        raise
    if isinstance(plan, AppliedPlan):
        print_applied(plan, as_json=as_json)
    else:
        print_planned(plan, applies=plan.met or partial, as_json=as_json)
    if plan.unmet and (demanding or not partial):
        raise typer.Exit(1)


@app.command()
def policy(guest: GuestOption, state: StateOption = None) -> None:
    """The policy in the guest's image, or the one that it registered."""
    registered = _guest(guest, state).policy
    if registered is None:
        raise SdkError(
            f"guest `{guest}` has no policy: its image carries none, and `keyvisor guest apply FILE` registers one"
        )
    sys.stdout.write(registered.text)


@app.command()
def refusals(guest: GuestOption, state: StateOption = None, as_json: JsonOption = False) -> None:
    """What the gate refused, oldest first: why, what is missing, the rule with its line, and the commands for it."""
    found = _guest(guest, state).refusals()
    show(
        {"refusals": [refusal.model_dump(mode="json") for refusal in found], "dropped": found.dropped},
        ("time", "HSM", "call", "code", "why", "what is missing"),
        [(each.at, each.apqn or "none", each.call, each.code, each.reason, each.missing) for each in found],
        as_json=as_json,
        empty="nothing was refused",
    )
    if not as_json:
        _print_ways_out(found)
    if found.dropped and not as_json:
        print(f"{found.dropped} older ones are no longer kept")


def _print_ways_out(found: Iterable[Refusal]) -> None:
    """Of each kind of refusal once: the state, the rule, what would have to be true, and the commands for it."""
    kinds = {(each.apqn, each.code, each.rule): each for each in found}
    for each in kinds.values():
        state = "not this guest's" if each.state is None else each.state
        print()
        print(printable(f"{each.code}, HSM {each.apqn or 'none'}, now {state}"))
        for name, text in (
            ("rule", each.rule),
            ("must be", each.must_be),
            *(("do", one) for one in each.commands),
        ):
            if text:
                print(printable(f"    {name:<8} {text}"))


@app.command()
def env(guest: GuestOption, state: StateOption = None) -> None:
    """Print the variables that lead a program to the guest, for a shell: eval "$(keyvisor guest env --guest g)"."""
    sys.stdout.write(Surroundings.of(state_directory(state), guest).exports())


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    command: Annotated[list[str], typer.Argument(metavar="CMD", help="The program and its arguments.")],
    guest: GuestOption,
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox",
            help="Run it in a bubblewrap sandbox: no network, /usr and /etc to read, a private /tmp, the working "
            "directory, and of the state directory this guest's doors only.",
        ),
    ] = False,
    state: StateOption = None,
) -> None:
    """Run a program in the guest; its exit code is the command's.

    Sets P11_KIT_SERVER_ADDRESS, KEYVISOR_GUEST, KEYVISOR_STATE and KEYVISOR_PKCS11_MODULE (the PKCS#11 module
    to load). A shell expands the line before they are set, so an empty argument after --module or --provider
    becomes the module's path, and this works as it stands:

    \b
    keyvisor guest exec --guest g -- pkcs11-tool --module "$KEYVISOR_PKCS11_MODULE" -L

    Ends with 127 if there is no such program, 126 if it may not be run.
    """
    where = state_directory(state)
    at = Surroundings.of(where.resolve() if sandbox else where, guest)
    run(command, at, os.environ, sandbox=sandbox)
