"""What each code of `policy check` means, an example that shows it, and how to mend it: data.

The pages under docs/findings are made from it, and SARIF's help texts. A test runs `check` on every example.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code: what it means, a policy that has it and no other, how to mend it, and the policy mended."""

    meaning: str
    example: str
    mending: str
    mended: str


EXPLANATIONS: dict[str, Explanation] = {
    "invalid": Explanation(
        "The file does not load: its YAML is broken, a word is unknown, or a value is not what it must be. Nothing of"
        " the file is used, neither by a guest nor by the firmware. Every error of a file is reported at once, and"
        " other findings come only when there is none.",
        """\
version: 1
associations:
  - name: payments
    hsm: {seriall: 93AADFK719460083}
""",
        "The message says what was expected at that line and column, and for a misspelt word the nearest right one. An"
        " editor that has the schema (`keyvisor policy schema`) shows most of these while you type.",
        """\
version: 1
associations:
  - name: payments
    hsm: {serial: 93AADFK719460083}
""",
    ),
    "never-matches": Explanation(
        "No HSM whatever can match the rule. Accelerators work with clear keys and have no master key, so a rule that"
        " asks an accelerator for the pattern of one waits forever.",
        """\
version: 1
associations:
  - name: tls-offload
    hsm: {mode: accel, mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
""",
        "Remove `mkvp`; or, where keys must stay under that master key, ask for an ep11 HSM.",
        """\
version: 1
associations:
  - name: tls-offload
    hsm: {mode: accel}
""",
    ),
    "never-met": Explanation(
        "The rule can match HSMs, but never as many as it wants. A serial number and an MKVP together are one HSM at"
        " most, because two domains of one card may not share a master key; the rule wants more, or an earlier rule"
        " for the same secret has that one.",
        """\
version: 1
associations:
  - name: payments
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93, serial: 93AADFK719460083}
    count: 2
""",
        "Spares belong on different cards: remove `serial`, or give each card a rule of its own with the same secret.",
        """\
version: 1
associations:
  - name: payments
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
    count: 2
""",
    ),
    "shadowed": Explanation(
        "Every HSM that the rule could have is one that an earlier rule could have too, and the earlier rule comes"
        " first. The later rule gets what is left over, if anything is: on a machine with one such HSM it is unmet.",
        """\
version: 1
associations:
  - name: any-card
    hsm: {generation: ">=CEX7"}
  - name: newest
    hsm: {generation: ">=CEX8"}
""",
        "Put the narrower rule first, or narrow the wider one so that they want different HSMs.",
        """\
version: 1
associations:
  - name: newest
    hsm: {generation: ">=CEX8"}
  - name: any-card
    hsm: {generation: ">=CEX7"}
""",
    ),
    "ambiguous-priority": Explanation(
        "Two rules want exactly the same HSMs for different secrets. Only their order in the file decides which secret"
        " gets the one that is there, and whoever sorts the file changes that.",
        """\
version: 1
associations:
  - name: payments
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
  - name: payroll
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
""",
        "Tell the rules apart by something that the HSMs differ in, as by the card's serial number.",
        """\
version: 1
associations:
  - name: payments
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93, serial: 93AADFK719460083}
  - name: payroll
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93, serial: 93AADFK719460084}
""",
    ),
    "rule-twice": Explanation(
        "Two rules want the same HSMs for the same secret. That works, but says in two places what belongs together,"
        " and a change to one of them is easily forgotten in the other.",
        """\
version: 1
associations:
  - name: payments
    secret: payments-signing
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
  - name: payments-spare
    secret: payments-signing
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
""",
        "Say it once, with `count`.",
        """\
version: 1
associations:
  - name: payments
    secret: payments-signing
    hsm: {mkvp: 0xdb3c3b3c3f097dd55ec7eb0e7fdbcb93}
    count: 2
""",
    ),
    "no-effect": Explanation(
        "An earlier rule with `count: all` takes every HSM that this rule could have, for the same secret. Without"
        " this rule the same HSMs have the same secret.",
        """\
version: 1
associations:
  - name: payments
    secret: payments-signing
    hsm: {generation: ">=CEX7"}
    count: all
  - name: payments-newest
    secret: payments-signing
    hsm: {generation: ">=CEX8"}
""",
        "Remove the rule.",
        """\
version: 1
associations:
  - name: payments
    secret: payments-signing
    hsm: {generation: ">=CEX7"}
    count: all
""",
    ),
    "secret-twice": Explanation(
        "One rule names a secret and another gives the id of the same secret. A reader takes them for two, and so does"
        " whoever renames one.",
        """\
version: 1
associations:
  - name: payments
    hsm: {serial: 93AADFK719460083}
  - name: payments-spare
    secret_id: 0xdf384ae97c77ad3001626aab01f2eb2aad176448109165df1d64c57b7091cd1c
    hsm: {serial: 93AADFK719460084}
""",
        "Give the name in both rules.",
        """\
version: 1
associations:
  - name: payments
    hsm: {serial: 93AADFK719460083}
  - name: payments-spare
    secret: payments
    hsm: {serial: 93AADFK719460084}
""",
    ),
    "secret-confused": Explanation(
        "A rule is called like the secret of another rule, but has a secret of its own. Who reads its name takes it for"
        " the other's.",
        """\
version: 1
associations:
  - name: frankfurt
    secret: payments
    hsm: {serial: 93AADFK719460083}
  - name: payments
    secret: payroll
    hsm: {serial: 93AADFK719460084}
""",
        "Rename the rule.",
        """\
version: 1
associations:
  - name: frankfurt
    secret: payments
    hsm: {serial: 93AADFK719460083}
  - name: london
    secret: payroll
    hsm: {serial: 93AADFK719460084}
""",
    ),
    "never-empty": Explanation(
        "No HSM that there can be is as the entry under `never` describes, so it holds whatever the rules say. Its author"
        " meant something, and that is not asserted.",
        """\
version: 1
associations:
  - name: payments
    hsm: {generation: ">=CEX8"}
never:
  - secret: payments
    hsm: {compliance: [fips2021, "!fips2021"]}
""",
        "Say what was meant: leave out the field that rules out the others, or make two entries of it.",
        """\
version: 1
associations:
  - name: payments
    hsm: {generation: ">=CEX8", compliance: [fips2021]}
never:
  - secret: payments
    hsm: {compliance: ["!fips2021"]}
""",
    ),
    "never-can-happen": Explanation(
        "A rule permits what an entry under `never` says must not happen. The message has an HSM and a secret that show"
        " it; no such HSM needs to exist on any machine today.",
        """\
version: 1
associations:
  - name: payments
    hsm: {generation: ">=CEX8"}
never:
  - secret: payments
    hsm: {serial: "!93AADFK719460083"}
""",
        "Narrow the rule until it permits nothing of the kind, or correct the assertion where it says too much.",
        """\
version: 1
associations:
  - name: payments
    hsm: {generation: ">=CEX8", serial: 93AADFK719460083}
never:
  - secret: payments
    hsm: {serial: "!93AADFK719460083"}
""",
    ),
    "point-never-matches": Explanation(
        "The control point names calls of which none has what it looks at: a signature makes no object, so that it has no"
        " template; a generation uses no key; a digest of a key has no mechanism. What is not there meets no condition,"
        " so the control point is never met, and what it was to refuse is allowed.",
        """\
version: 1
requests:
  rules:
    - name: no small keys
      deny: {call: C_SignInit, template: {CKA_MODULUS_BITS: "<3072"}}
""",
        "`template` is what a call would make or change, `key` the key that it uses: look at the other one, or name the"
        " calls that were meant.",
        """\
version: 1
requests:
  rules:
    - name: no small keys
      deny: {call: C_SignInit, key: {CKA_MODULUS_BITS: "<3072"}}
""",
    ),
    "point-never-decides": Explanation(
        "Whatever the control point matches, another one matches too and decides: a deny wins over every allow of the"
        " file, and of two with the same effect the first decides. What is said holds for values that are of their"
        " attribute's kind; one that is not refuses whatever meets it.",
        """\
version: 1
requests:
  profiles: [no-export]
  rules:
    - name: nothing is wrapped
      deny: {call: C_WrapKey}
    - name: backups are wrapped
      allow: {call: C_WrapKey, mechanism: CKM_AES_KEY_WRAP, key: {CKA_LABEL: backup}}
""",
        "Narrow the control point that decides, so that it leaves this one something; or remove this one. An exception"
        " from a profile needs no deny of its own beside it.",
        """\
version: 1
requests:
  profiles: [no-export]
  rules:
    - name: backups are wrapped
      allow: {call: C_WrapKey, mechanism: CKM_AES_KEY_WRAP, key: {CKA_LABEL: backup}}
""",
    ),
    "allow-needless": Explanation(
        "What nothing refuses is allowed anyway. An allow is an exception from what a profile denies, and no control"
        " point of the policy's profiles is about a request that this one matches: they share no call or no mechanism.",
        """\
version: 1
requests:
  profiles: [no-export]
  rules:
    - name: old digests stay
      allow: {call: C_DigestInit, mechanism: CKM_SHA_1}
""",
        "Remove it; or name the profile from which it was to be an exception.",
        """\
version: 1
requests:
  profiles: [no-export, modern-only]
  rules:
    - name: old digests stay
      allow: {call: C_DigestInit, mechanism: CKM_SHA_1}
""",
    ),
}
