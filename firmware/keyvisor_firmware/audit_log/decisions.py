"""What was decided about an HSM, as it is recorded: enough to explain it, and to decide it again by another policy.

Names, ids and configuration data; a secret's value has no way here. Pure: knows no guest, no gate and no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from keyvisor_firmware.audit_log.chain import Json
from keyvisor_policy import Hsm, NotPermitted, Policy, Refusal
from keyvisor_policy import SecretId as PolicySecretId
from keyvisor_policy.hsms import Mode, generation_name, version_name
from keyvisor_policy.matching import mismatches

ASSOCIATE: Final = "associate"
STAND: Final = "stand"  # whether an association may stay, under a new policy or after a restart
BY_POLICY: Final = (ASSOCIATE, STAND)  # the calls that a policy decides
NOT_PERMITTED: Final = "3f"

CLOSEST: Final = 4  # rules of which it is recorded what stands against them, those that lack least
LONGEST: Final = 256  # characters of a text from a policy or an application


@dataclass(frozen=True, slots=True)
class Place:
    """A rule: its name, and where it stands, `source:line`."""

    name: str
    at: str

    def __str__(self) -> str:
        return f"{self.name} ({self.at})"


@dataclass(frozen=True, slots=True)
class Against:
    """Why a rule does not allow it: per field that differs, in words, what is wanted and what was found."""

    rule: Place
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says: the rule that allows it, or what stands against the closest ones, and how many others there are."""

    rule: Place | None
    against: tuple[Against, ...] = ()
    others: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about one HSM.

    `call` is bind, associate, unbind or stand, or the PKCS#11 function that the gate refused. `code` is an AP response
    code (two hex digits) or a CK_RV's name; `missing` says what had to be done next. `state` is what the HSM was to the
    guest before. `policy` is the digest (hex) of the policy that was asked, or that was registered then. `because` is a
    control point's (broker's Because). `count` equal ones were refused from `first` to `last`, ISO 8601.
    """

    call: str
    allowed: bool
    apqn: str | None = None
    hsm: Hsm | None = None
    state: str | None = None
    code: str | None = None
    reason: str | None = None
    missing: str | None = None
    secret_id: str | None = None
    secret: str | None = None
    policy: str | None = None
    source: str | None = None
    rule: Place | None = None
    against: tuple[Against, ...] = ()
    others: int = 0
    because: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    first: str | None = None
    last: str | None = None

    def as_json(self) -> Json:
        """As it is recorded: what says nothing is left out."""
        said = {
            "call": self.call,
            "allowed": self.allowed,
            "apqn": self.apqn,
            "hsm": None if self.hsm is None else _hsm_json(self.hsm),
            "state": self.state,
            "code": self.code,
            "reason": self.reason,
            "missing": self.missing,
            "secret_id": self.secret_id,
            "secret": self.secret,
            "policy": self.policy,
            "source": self.source,
            "rule": None if self.rule is None else _place_json(self.rule),
            "against": [{"rule": _place_json(one.rule), "fields": dict(one.fields)} for one in self.against],
            "others": self.others or None,
            "because": dict(self.because),
            "count": None if self.count == 1 else self.count,
            "first": self.first,
            "last": self.last,
        }
        return {key: value for key, value in said.items() if value not in (None, [], {})}

    @classmethod
    def from_json(cls, told: Json) -> Decision:
        """As `as_json` wrote it. Raises LookupError, TypeError, ValueError for what it never writes."""
        said = dict(told)
        hsm, rule = said.pop("hsm", None), said.pop("rule", None)
        against = tuple(Against(_place(one["rule"]), dict(one["fields"])) for one in said.pop("against", ()))
        return cls(
            **said,
            hsm=None if hsm is None else _hsm(hsm),
            rule=None if rule is None else _place(rule),
            against=against,
        )


def judged(policy: Policy, hsm: Hsm, secret_id: bytes) -> Verdict:
    """What `policy` says of associating the secret with the HSM."""
    try:
        rule = policy.permit(hsm, PolicySecretId(secret_id))
    except NotPermitted as refused:
        closest = sorted(refused.refusals, key=_lack)[:CLOSEST]
        against = tuple(_against(policy, one) for one in closest)
        return Verdict(None, against, len(refused.refusals) - len(closest), str(refused)[: 4 * LONGEST])
    return Verdict(_place_of(policy, rule.name, rule.line))


def sought(policy: Policy, hsm: Hsm) -> tuple[Verdict, bytes | None]:
    """What `policy` has for an HSM that nothing is associated with: the first rule that matches it and that rule's secret id
    (32 bytes), else what stands against the rules that lack least.
    """
    matching = (rule for rule in policy.rules_for(hsm) if rule.secret is not None)
    for rule in matching:
        return Verdict(
            _place_of(policy, rule.name, rule.line)
        ), None if rule.secret is None else rule.secret.id
    refusals = [Refusal(rule, mismatches(hsm, rule.hsm)) for rule in policy.rules if rule.secret is not None]
    closest = sorted(refusals, key=_lack)[:CLOSEST]
    return Verdict(None, tuple(_against(policy, one) for one in closest), len(refusals) - len(closest)), None


def secret_name(policy: Policy | None, secret_id: bytes) -> str | None:
    """What the policy calls the secret, if it does."""
    rules = () if policy is None else policy.rules
    names = (rule.secret.name for rule in rules if rule.secret is not None and rule.secret.id == secret_id)
    return next((name[:LONGEST] for name in names if name is not None), None)


def _lack(refusal: Refusal) -> tuple[bool, int]:
    """Rules for the secret come first, then those that lack least."""
    return any(one.field == "secret" for one in refusal.mismatches), len(refusal.mismatches)


def _against(policy: Policy, refusal: Refusal) -> Against:
    fields = {one.field: one.message[:LONGEST] for one in refusal.mismatches}
    return Against(_place_of(policy, refusal.rule.name, refusal.rule.line), fields)


def _place_of(policy: Policy, name: str, line: int) -> Place:
    return Place(name[:LONGEST], f"{policy.source[:LONGEST]}:{line}")


def _place_json(place: Place) -> Json:
    return {"name": place.name, "at": place.at}


def _place(told: Json) -> Place:
    return Place(str(told["name"]), str(told["at"]))


def _hsm_json(hsm: Hsm) -> Json:
    return {
        "apqn": hsm.apqn,
        "mode": hsm.mode,
        "generation": generation_name(hsm.generation),
        "serial": hsm.serial,
        "mkvp": None if hsm.mkvp is None else hsm.mkvp.hex(),
        "firmware": version_name(hsm.firmware),
        "api": hsm.api,
        "compliance": sorted(hsm.compliance),
        "online": hsm.online,
    }


def _hsm(told: Json) -> Hsm:
    major, _, minor = told["firmware"].partition(".")
    return Hsm(
        apqn=told["apqn"],
        mode=cast(Mode, told["mode"]),
        generation=int(told["generation"].removeprefix("CEX")),
        serial=told["serial"],
        mkvp=None if told["mkvp"] is None else bytes.fromhex(told["mkvp"]),
        firmware=(int(major), int(minor)),
        api=told["api"],
        compliance=frozenset(told["compliance"]),
        online=told["online"],
    )
