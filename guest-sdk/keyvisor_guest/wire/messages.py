"""The JSON messages of the three doors, and the table of their routes.

Both sides build on this page: the firmware serves these routes and makes `/openapi.json` from them, the SDK
calls them. It knows shapes and limits, not what the firmware does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Base64Bytes, Field

from keyvisor_guest.wire.message import (
    HEX_16,
    HEX_32,
    Address,
    ApqnText,
    GuestName,
    Handle,
    SecretIdText,
    State,
)
from keyvisor_guest.wire.message import Done as Done
from keyvisor_guest.wire.message import Message as Message
from keyvisor_guest.wire.names import APQN as APQN
from keyvisor_guest.wire.names import GUEST_NAME as GUEST_NAME
from keyvisor_guest.wire.storage_messages import (
    Allocate,
    Allocated,
    ByHandle,
    ConvertPages,
    CreateCpu,
    Created,
    CreateGuest,
    Freed,
    FreeFrames,
    InitStorage,
    Ledger,
    MapPages,
    QueryStorage,
    ReadStorage,
    SetParameters,
    StorageBlock,
    StorageContent,
    UnmapPages,
    Unpack,
    WriteHostStorage,
    WriteStorage,
)

INDEX = r"^[0-9]{1,5}$"

MAX_REQUEST = 0x100000  # bytes of one add-secret request (the ioctl's limit; formats, A.1)
MAX_IMAGE = 1 << 26  # bytes of an image file
MAX_POLICY = 1 << 20  # bytes of a policy file (policy.md, section 1)
MAX_KEY_DATA = 1 << 20  # bytes that one use of a protected key signs, encrypts or decrypts
MAX_KEY_PARAMETER = 1 << 12  # bytes of each of its parameters, and of the protected key


class Problem(Message):
    """Every refusal's body. `kind` says which numbering `code` is of: `ap` (formats, F.5), `uv` (B.1, D), `attest` (C.6),
    `program` (interruption codes of a refused access to storage), `http`, or `key`.

    `key` is our own, of protected keys (docs/decisions/0010). `handle` is given with `uv` codes that have 8000h in them:
    what was created half and must be destroyed (D.3).
    """

    kind: Literal["ap", "uv", "attest", "program", "http", "key"]
    code: int
    message: str
    findings: list[str] = Field(default_factory=list)
    handle: Handle | None = None


class Hsm(Message):
    """One HSM as its guest sees it: configuration data and the state of its association."""

    apqn: ApqnText
    state: State
    mode: Literal["ep11", "accel", "cca"]
    generation: str
    serial: str
    mkvp: str | None
    firmware: str
    api: int
    compliance: list[str]
    online: bool
    secret_id: SecretIdText | None = None


class HsmList(Message):
    hsms: list[Hsm]


class HeldHsm(Hsm):
    """One HSM as the operator sees it: `holder` is the guest that holds it."""

    holder: GuestName | None = None


class HeldHsmList(Message):
    hsms: list[HeldHsm]


class Guest(Message):
    """One guest as the host sees it: nothing of its secrets, its policy or why it was refused.

    `state` is that of its lifecycle; `cpus` the numbers of those that were created, `cpu_handles` theirs.
    `storage_length` (bytes) and `asce` are what the host created it with. `started` is empty before it runs.
    """

    name: GuestName
    cuid: Annotated[str, Field(pattern=HEX_16)]
    attached: list[ApqnText]
    started: str
    handle: Handle
    state: Literal["unfinished", "created", "parameters", "verified", "running"]
    cpus: list[int]
    cpu_handles: list[Handle]
    storage_length: Address
    asce: Address


class GuestList(Message):
    guests: list[Guest]


class Identity(Message):
    """The boot identity of a running guest, all hex: PLD, ALD, TLD (64 bytes each), header tag and CUID (16)."""

    pld: str
    ald: str
    tld: str
    header_tag: str
    cuid: str


class HostKeyDocument(Message):
    """The host key's certificate, PEM."""

    pem: str


class HostKeyDocuments(Message):
    """What owners verify a host by, PEM: host-key documents, signing key, root CA, the signing key's revocation list.

    `hashes` are the 15 that Query Keys answers (formats, C.1), hex: current, backup, and zeros.
    """

    current: str
    backup: str
    signing: str
    root: str
    revocations: str
    hashes: Annotated[list[Annotated[str, Field(pattern=HEX_32)]], Field(min_length=15, max_length=15)]


class IssuedHostKey(Message):
    """A host-key document for the operator. `serial` is hex; the key of a retired one is gone."""

    serial: str
    use: Literal["current", "backup", "retired"]
    hash: Annotated[str, Field(pattern=HEX_32)]
    expires: str
    revoked: str | None


class IssuedHostKeys(Message):
    """Every host-key document, oldest first; `root_fingerprint` is SHA-256 of the root CA's certificate, hex."""

    documents: list[IssuedHostKey]
    root_fingerprint: Annotated[str, Field(pattern=HEX_32)]


class RevokeHostKey(Message):
    """`serial` is the document's serial number, hex."""

    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]


class Associate(Message):
    """Exactly one of `secret` (its name) and `secret_id` is given."""

    secret: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    secret_id: SecretIdText | None = None


class AddSecret(Message):
    """`request` is one add-secret request control block, base64."""

    request: Base64Bytes


class Secret(Message):
    """One entry of the secret store: never its value."""

    index: int
    type: int
    length: int
    id: SecretIdText


class SecretList(Message):
    secrets: list[Secret]
    locked: bool


class RetrievedSecret(Message):
    """One secret as its guest may have it, base64.

    In clear for a plaintext secret (u16 length, payload, zeros); a protected key for a key.
    """

    index: int
    type: int
    id: SecretIdText
    value: Annotated[Base64Bytes, Field(repr=False)]


class ProtectedKeyParameters(Message):
    """What an operation needs besides its data. Which it takes depends on the key; one that it does not take is refused.

    `iv`: 12 bytes for GCM, 16 for CBC, CTR (the first counter block) and XTS (the tweak). `associated` is GCM's.
    `digest`: the data is the digest already, by `hash`. `signature` is what is verified.
    """

    mode: Literal["GCM", "CBC", "CTR", "XTS"] | None = None
    iv: Base64Bytes | None = None
    associated: Annotated[Base64Bytes | None, Field(repr=False)] = None
    hash: Literal["SHA-256", "SHA-384", "SHA-512"] | None = None
    digest: bool = False
    signature: Base64Bytes | None = None


class UseProtectedKey(Message):
    """One use of a protected key that a retrieval gave; `kind` is the secret's type. All bytes base64."""

    blob: Base64Bytes
    kind: int
    operation: Literal["encrypt", "decrypt", "sign", "verify", "public-key"]
    data: Annotated[Base64Bytes, Field(repr=False)] = b""
    parameters: ProtectedKeyParameters = ProtectedKeyParameters()


class UsedProtectedKey(Message):
    """What it gave: ciphertext (GCM's tag behind it), clear text, signature, or public key (DER); empty for `verify`."""

    data: Annotated[Base64Bytes, Field(repr=False)]


class Attest(Message):
    """`request` is one attestation request control block, base64, `user_data` up to 256 bytes of the guest's own.

    The lengths are those of the caller's room for the answer; as much as the request asks for where they are None.
    """

    request: Base64Bytes
    user_data: Base64Bytes
    measurement_length: Annotated[int, Field(ge=0)] | None = None
    additional_length: Annotated[int, Field(ge=0)] | None = None


class AttestationAnswer(Message):
    """What the firmware measured, all hex: the measurement (64 bytes), the additional data, the CUID (16)."""

    measurement: str
    additional: str
    cuid: Annotated[str, Field(pattern=HEX_16)]


class PolicyText(Message):
    """The text of a policy file. `source` is the name that messages about it begin with."""

    text: Annotated[str, Field(max_length=MAX_POLICY)]
    source: Annotated[str, Field(max_length=4096)] = "policy.yaml"


class Step(Message):
    """One step of a plan: what to do to which HSM. `secret_id` goes with `associate`."""

    action: Literal["unbind", "bind", "associate"]
    apqn: ApqnText
    secret_id: SecretIdText | None = None


class Seen(Message):
    """What an HSM was to the guest when a plan was made. `secret_id` where it was associated."""

    apqn: ApqnText
    state: State
    secret_id: SecretIdText | None = None


class ApplyPlan(Message):
    """A policy to register and the steps that its plan asks for: all of it is done, or nothing.

    The firmware does unbinds first, then binds, then associations. `seen` are the HSMs that the plan was made from, those
    of the steps among them: where one is not what it was (AP response code 3d), nothing is done. Without `seen` each
    step is checked as if it came alone, and no more.
    """

    policy: PolicyText
    steps: Annotated[list[Step], Field(max_length=1024)]
    seen: Annotated[list[Seen], Field(max_length=1024)] | None = None


class Mechanism(Message):
    """One mechanism of the module behind an HSM: CK_MECHANISM_TYPE, its name, and CK_MECHANISM_INFO as the module says it.

    `allowed`: whether policy lets the guest use it.
    """

    type: int
    name: str
    min_key_size: int
    max_key_size: int
    flags: int
    allowed: bool


class MechanismList(Message):
    mechanisms: list[Mechanism]


class Refusal(Message):
    """One request that the gate refused: the code that went to the application, why, and what is missing now.

    `state` is what the HSM is to the guest now; `rule` the control point that refused, or the policy's rule for the HSM,
    with source and line. `must_be` is what would have to be true, `commands` bring it about.
    """

    at: str
    apqn: ApqnText | None
    call: str
    code: str
    reason: str
    missing: str
    state: str | None
    rule: str | None
    must_be: str
    commands: list[str]


class RefusalList(Message):
    refusals: list[Refusal]
    dropped: int


class AuditEntry(Message):
    """A record of the audit log. `number` counts from 1; `keyvisor audit explain` takes it."""

    number: int
    at: str
    guest: str | None
    event: str
    detail: dict[str, str]


class AuditLog(Message):
    entries: list[AuditEntry]


class AuditKey(Message):
    """What verifies the audit log: its public key, PEM, and the last record now, `NUMBER:HASH` (none of an empty log)."""

    public_key: str
    head: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a door's table. `body` and `answer` are messages; `path` names its parameters in braces."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    name: str
    summary: str
    body: type[Message] | None
    answer: type[Message]


HOST_ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/uv/query",
        "query_storage",
        "how much storage each thing needs, and the limits",
        QueryStorage,
        StorageBlock,
    ),
    Route("POST", "/uv/init", "init_storage", "donate the zone's base storage", InitStorage, Done),
    Route("POST", "/uv/create-guest", "create_guest", "donate a guest's storage", CreateGuest, Created),
    Route("POST", "/uv/create-cpu", "create_cpu", "donate a CPU's storage", CreateCpu, Created),
    Route(
        "POST",
        "/uv/set-parameters",
        "set_parameters",
        "hand over the header of a guest's image",
        SetParameters,
        Done,
    ),
    Route("POST", "/uv/unpack", "unpack", "take pages of a guest's image into the guest", Unpack, Done),
    Route("POST", "/uv/verify", "verify", "measure what was unpacked", ByHandle, Done),
    Route("POST", "/uv/start", "start_guest", "let a verified guest run", ByHandle, Guest),
    Route(
        "POST", "/uv/destroy-cpu", "destroy_cpu", "end a CPU; its storage is the host's again", ByHandle, Done
    ),
    Route(
        "POST",
        "/uv/destroy-guest",
        "destroy_guest",
        "end a guest without CPUs; its secrets go with it, its storage is the host's again",
        ByHandle,
        Done,
    ),
    Route(
        "POST",
        "/uv/export",
        "export_pages",
        "encrypt pages of a guest, for the host to put away",
        ConvertPages,
        Done,
    ),
    Route("POST", "/uv/import", "import_pages", "take pages into a guest", ConvertPages, Done),
    Route("GET", "/storage", "storage", "who holds which storage", None, Ledger),
    Route("POST", "/memory/allocate", "allocate", "reserve free storage of the host's", Allocate, Allocated),
    Route("POST", "/memory/free", "free", "give back what was reserved under a label", FreeFrames, Freed),
    Route("POST", "/memory/map", "map_pages", "map storage into an address space", MapPages, Done),
    Route("POST", "/memory/unmap", "unmap_pages", "take storage out of an address space", UnmapPages, Done),
    Route("POST", "/memory/read", "read_storage", "read host-absolute storage", ReadStorage, StorageContent),
    Route("POST", "/memory/write", "write_storage", "write host-absolute storage", WriteHostStorage, Done),
    Route("GET", "/guests", "list_guests", "the guests there are", None, GuestList),
    Route("PUT", "/guests/{name}/hsms/{apqn}", "attach", "give an HSM to a guest", None, Done),
    Route("DELETE", "/guests/{name}/hsms/{apqn}", "detach", "take an HSM away from a guest", None, Done),
    Route("GET", "/hsms", "list_hsms", "the HSMs of this machine", None, HsmList),
    Route("GET", "/host-key", "host_key", "the host key's certificate, for owners", None, HostKeyDocument),
    Route(
        "GET",
        "/host-keys",
        "host_keys",
        "all host-key documents, and what owners verify them by",
        None,
        HostKeyDocuments,
    ),
)

GUEST_ROUTES: tuple[Route, ...] = (
    Route("GET", "/identity", "identity", "this instance's boot identity and CUID", None, Identity),
    Route("GET", "/hsms", "list_hsms", "the HSMs attached to this guest", None, HsmList),
    Route("POST", "/hsms/{apqn}/bind", "bind", "bind an HSM: non-sensitive requests pass", None, Hsm),
    Route("POST", "/hsms/{apqn}/unbind", "unbind", "unbind an HSM: nothing passes", None, Hsm),
    Route(
        "POST",
        "/hsms/{apqn}/associate",
        "associate",
        "associate a secret with a bound HSM: sensitive requests pass",
        Associate,
        Hsm,
    ),
    Route(
        "GET",
        "/hsms/{apqn}/mechanisms",
        "mechanisms",
        "what the module behind a bound HSM can do, and what policy allows",
        None,
        MechanismList,
    ),
    Route(
        "GET", "/secrets", "list_secrets", "the secrets of this guest, without their values", None, SecretList
    ),
    Route("POST", "/secrets", "add_secret", "hand an add-secret request to the firmware", AddSecret, Done),
    Route("POST", "/secrets/lock", "lock_secrets", "lock the secret store until the guest stops", None, Done),
    Route(
        "GET",
        "/policy",
        "get_policy",
        "the policy in this guest's image, or the one that it registered",
        None,
        PolicyText,
    ),
    Route("PUT", "/policy", "set_policy", "register a policy; associations it forbids end", PolicyText, Done),
    Route(
        "POST",
        "/plan",
        "apply_plan",
        "register a policy and do its plan's steps, all or none",
        ApplyPlan,
        HsmList,
    ),
    Route(
        "GET", "/refusals", "refusals", "what the gate refused, why, and what is missing", None, RefusalList
    ),
    Route(
        "GET",
        "/secrets/{index}",
        "retrieve_secret",
        "a secret in the form that its kind has: in clear, or as a protected key",
        None,
        RetrievedSecret,
    ),
    Route(
        "POST",
        "/protected-keys/use",
        "use_protected_key",
        "sign, verify, encrypt or decrypt with a protected key of this guest",
        UseProtectedKey,
        UsedProtectedKey,
    ),
    Route(
        "POST",
        "/attest",
        "attest",
        "have this instance measured, for who made the attestation request",
        Attest,
        AttestationAnswer,
    ),
    Route("POST", "/memory/read", "read_storage", "read this guest's storage", ReadStorage, StorageContent),
    Route("POST", "/memory/write", "write_storage", "write this guest's storage", WriteStorage, Done),
)

OPERATOR_ROUTES: tuple[Route, ...] = (
    Route("GET", "/hsms", "list_hsms", "all HSMs with their MKVPs and who holds them", None, HeldHsmList),
    Route("GET", "/audit", "audit", "the audit log, oldest first", None, AuditLog),
    Route("GET", "/audit/key", "audit_key", "what verifies the audit log, and its head", None, AuditKey),
    Route(
        "GET",
        "/host-keys",
        "issued_host_keys",
        "every host-key document that was issued",
        None,
        IssuedHostKeys,
    ),
    Route(
        "POST",
        "/host-keys/rotate",
        "rotate_host_key",
        "make a new host key; the present one becomes the backup",
        None,
        IssuedHostKeys,
    ),
    Route(
        "POST",
        "/host-keys/revoke",
        "revoke_host_key",
        "put a host-key document on the revocation list",
        RevokeHostKey,
        IssuedHostKeys,
    ),
)

DOORS = {"host": HOST_ROUTES, "guest": GUEST_ROUTES, "operator": OPERATOR_ROUTES}
