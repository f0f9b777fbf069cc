"""Runs a target under atheris, which watches what the code does: `make fuzz ARGS="gate -max_total_time=600"`.

atheris is no dependency of the project: install it into `.venv` where there is a wheel for the interpreter. Without
it this says so; `make test` runs the same targets under hypothesis in any case.
"""

from __future__ import annotations

import sys

try:
    import atheris
except ImportError:
    sys.exit(
        "atheris is not installed: `.venv/bin/pip install atheris`, or run `make test` (the same targets)"
    )

with atheris.instrument_imports(include=["keyvisor_firmware", "keyvisor_hsm"]):
    from .targets import TARGETS


def main() -> None:
    """The first argument names the target, the others are libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"which target? {', '.join(TARGETS)}; more arguments are libFuzzer's")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
