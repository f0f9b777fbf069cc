"""`keyvisor audit`: what the firmware has recorded."""

from __future__ import annotations

from keyvisor_firmware.cli.options import JsonOption, StateOption
from keyvisor_policy.terminal import verb

app = verb("Read what the firmware has recorded.")


@app.callback(invoke_without_command=True)
def audit(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Every command that was done or refused, oldest first; the newest `limits.audit_entries` of the configuration."""
    from keyvisor_firmware.cli.operator_door import ask
    from keyvisor_guest.state_directory import operator_socket, state_directory
    from keyvisor_guest.wire.messages import AuditLog
    from keyvisor_policy.terminal import print_json, print_table

    answer = ask(operator_socket(state_directory(state)), "audit", AuditLog)
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    print_table(
        ("at", "guest", "event", "detail"),
        [
            (
                one.at,
                one.guest or "none",
                one.event,
                " ".join(f"{key}={value}" for key, value in one.detail.items()),
            )
            for one in answer.entries
        ],
        empty="nothing is recorded yet",
    )
