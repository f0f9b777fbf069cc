"""Writes what is made from the policy package: the shipped JSON Schema, and a page per finding under docs/findings.

A test fails when one of them is not what this would write.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from keyvisor_policy.explanations import EXPLANATIONS, Explanation
from keyvisor_policy.lint import CODES
from keyvisor_policy.schema import SHIPPED, generated

_ROOT = Path(__file__).resolve().parents[1]
_WIDTH = 115


def files() -> dict[str, str]:
    """Every file by its path in the project."""
    pages = {f"docs/findings/{code}.md": page(code, EXPLANATIONS[code]) for code in CODES}
    return {
        f"policy/keyvisor_policy/{SHIPPED}": generated(),
        "docs/findings/README.md": index(),
        **pages,
    }


def index() -> str:
    """docs/findings/README.md."""
    lines = [
        "# Findings of `policy check`",
        "",
        "Made by `make docs` from `explanations.py`. Few and sure: what is said holds for every machine. The code stands",
        "in brackets behind the message, under `code` in `--json` and as the rule's id in `--sarif`.",
        "",
        "| code | means |",
        "|---|---|",
    ]
    lines += [f"| [`{code}`]({code}.md) | {meaning} |" for code, meaning in CODES.items()]
    return "\n".join([*lines, ""])


def page(code: str, explanation: Explanation) -> str:
    """docs/findings/CODE.md."""
    lines = [
        f"# `{code}`: {CODES[code]}",
        "",
        _wrapped(explanation.meaning),
        "",
        "```yaml",
        explanation.example.rstrip("\n"),
        "```",
        "",
        _wrapped(explanation.mending),
        "",
        "```yaml",
        explanation.mended.rstrip("\n"),
        "```",
        "",
        "[All findings](README.md)",
        "",
    ]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False)


def main() -> None:
    """Write all files."""
    for name, text in files().items():
        (_ROOT / name).parent.mkdir(exist_ok=True)
        (_ROOT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
