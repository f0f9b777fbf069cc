"""`keyvisor policy schema`: the JSON Schema of a policy file, for editors."""

from __future__ import annotations

import sys


def schema() -> None:
    """Print the JSON Schema of a policy file; an editor that has it completes and checks while you type.

    Exit code 0.
    """
    from keyvisor_policy.schema import shipped

    sys.stdout.write(shipped())
