"""`keyvisor hsm`: the operator's look at the cards, and the host keys."""

from __future__ import annotations

from keyvisor_firmware.cli import host_key
from keyvisor_firmware.cli.options import JsonOption, StateOption
from keyvisor_policy.terminal import verb

app = verb("Look at the emulated cards.", group=True)
app.add_typer(host_key.app, name="host-key")


@app.callback()
def hsm() -> None:
    """Look at the emulated cards."""


@app.command("list")
def list_hsms(state: StateOption = None, as_json: JsonOption = False) -> None:
    """All HSMs, with their master keys' verification patterns and who holds them."""
    from keyvisor_firmware.cli.operator_door import ask
    from keyvisor_guest.state_directory import operator_socket, state_directory
    from keyvisor_guest.wire.messages import HeldHsmList
    from keyvisor_policy.terminal import print_json, print_table

    answer = ask(operator_socket(state_directory(state)), "list_hsms", HeldHsmList)
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    print_table(
        ("HSM", "mode", "generation", "serial", "MKVP", "firmware", "online", "holder", "state"),
        [
            (
                one.apqn,
                one.mode,
                one.generation,
                one.serial,
                one.mkvp or "none",
                one.firmware,
                "yes" if one.online else "no",
                one.holder or "none",
                one.state,
            )
            for one in answer.hsms
        ],
        empty="the configuration has no cards",
    )
