"""The policies that guests register: read strictly, and kept as the text that they came as."""

from __future__ import annotations

from keyvisor_firmware.errors import Malformed
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_policy import DocumentError, Policy, parse


def read(row: PolicyRow) -> Policy:
    """The policy that the text is. Raises Malformed with every finding, each `source:line:column: message`."""
    try:
        return parse(row.text, row.source)
    except DocumentError as error:
        findings = [str(finding) for finding in error.findings]
        raise Malformed(
            "the policy cannot be used; `keyvisor policy check` shows the same", findings
        ) from None
