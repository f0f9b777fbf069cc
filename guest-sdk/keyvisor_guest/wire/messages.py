"""The JSON messages of the three doors, and the table of their routes.

Both sides build on this page: the firmware serves these routes and makes `/openapi.json` from them, the SDK
calls them. It knows shapes and limits, not what the firmware does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from keyvisor_guest.wire.names import APQN as APQN
from keyvisor_guest.wire.names import GUEST_NAME as GUEST_NAME

HEX_16 = r"^[0-9a-f]{32}$"
HEX_32 = r"^[0-9a-f]{64}$"
INDEX = r"^[0-9]{1,5}$"

MAX_REQUEST = 0x100000  # bytes of one add-secret request (the ioctl's limit; formats, A.1)
MAX_IMAGE = 1 << 26  # bytes of an image file
MAX_POLICY = 1 << 20  # bytes of a policy file (policy.md, section 1)
MAX_KEY_DATA = 1 << 20  # bytes that one use of a protected key signs, encrypts or decrypts
MAX_KEY_PARAMETER = 1 << 12  # bytes of each of its parameters, and of the protected key
MAX_ACCESS = 1 << 24  # bytes of one read or write of storage
MAX_ADDRESS = 1 << 52  # no address and no length is larger: JSON's numbers are exact below 2^53

Address = Annotated[int, Field(ge=0, le=MAX_ADDRESS)]
Handle = Annotated[int, Field(ge=1, le=MAX_ADDRESS)]
GuestName = Annotated[str, Field(pattern=GUEST_NAME)]
ApqnText = Annotated[str, Field(pattern=APQN)]
SecretIdText = Annotated[str, Field(pattern=HEX_32)]
State = Literal["unbound", "bound", "pending", "associated", "failed"]


class Message(BaseModel):
    """A message of a door: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Problem(Message):
    """Every refusal's body. `kind` says which numbering `code` is of: `ap` (formats, F.5), `uv` (B.1, D), `attest` (C.6),
    `program` (interruption codes of a refused access to storage), `http`, or `key`.

    `key` is our own, of protected keys (docs/decisions/0010). `handle` is given with `uv` codes that have 8000h in them:
    what was created half and must be destroyed (D.3).
    """

    kind: Literal["ap", "uv", "attest", "program", "http", "key"]
    code: int
    message: str
    findings: list[str] = []
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


class QueryStorage(Message):
    """`length`: how many bytes of the query block the caller has room for (formats, D.1)."""

    length: Annotated[int, Field(ge=0, le=1 << 16)] = 0x120


class StorageBlock(Message):
    """`rc` is 0001, or 0100 where the block was cut to the caller's room; `block` as wire/qui.py lays it out, base64."""

    rc: int
    block: Base64Bytes


class InitStorage(Message):
    """The zone's base storage, host-absolute (formats, D.2). Addresses and lengths are bytes, here and below."""

    origin: Address
    length: Address


class CreateGuest(Message):
    """What the host offers for a guest (formats, D.3): `base` absolute and `base_length`, `virtual` and `virtual_length`
    in the address space `asce`; the guest's own storage; the page `sca`.
    """

    name: GuestName
    base: Address
    base_length: Address
    virtual: Address
    virtual_length: Address
    storage_origin: Address = 0
    storage_length: Address
    asce: Address
    sca: Address


class CreateCpu(Message):
    """What the host offers for a guest's CPU (formats, D.4), host-absolute."""

    handle: Handle
    number: Annotated[int, Field(ge=0, le=0xFFFF)]
    storage: Address
    storage_length: Address


class Created(Message):
    """The handle of a guest or a CPU that was created."""

    handle: Handle


class ByHandle(Message):
    """A call that names a guest or a CPU, and nothing else."""

    handle: Handle


class SetParameters(Message):
    """Where in host-absolute storage the guest's image header stands (formats, D.5, command 0300)."""

    handle: Handle
    header: Address
    header_length: Address


class Unpack(Message):
    """Pages of the guest to unpack, `address` being the guest's (formats, D.5, command 0301, once for each page).

    `tweak` is the component's 8-byte prefix, hex; `offset` the first page's, and each further page's is 4096 more.
    """

    handle: Handle
    address: Address
    length: Address
    tweak: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    offset: Address


class ConvertPages(Message):
    """Pages of the guest, `address` being the guest's, that become secure (import) or leave it (export)."""

    handle: Handle
    address: Address
    length: Address


class Allocate(Message):
    """Ask the host's frame allocator for `length` bytes in one piece. `label` says for what: `free` takes all of it back."""

    label: Annotated[str, Field(min_length=1, max_length=64)]
    length: Address
    alignment: Address = 4096
    at_least: Address = 0


class Allocated(Message):
    absolute: Address


class FreeFrames(Message):
    label: Annotated[str, Field(min_length=1, max_length=64)]


class Freed(Message):
    """Bytes that are free again, and bytes that stay allocated since they are secure."""

    freed: Address
    kept: Address


class MapPages(Message):
    """Let `length` bytes from `virtual` in the address space `asce` be those from `absolute`; what was there is gone."""

    asce: Address
    virtual: Address
    absolute: Address
    length: Address


class UnmapPages(Message):
    asce: Address
    virtual: Address
    length: Address


class ReadStorage(Message):
    """Bytes of storage: host-absolute for the host, guest-absolute for a guest; any alignment."""

    address: Address
    length: Annotated[int, Field(ge=0, le=MAX_ACCESS)]


class WriteStorage(Message):
    address: Address
    data: Annotated[Base64Bytes, Field(repr=False)]


class StorageContent(Message):
    data: Annotated[Base64Bytes, Field(repr=False)]


class Held(Message):
    """One line of the ledger: storage that is in use.

    `holder` is a guest's name, `firmware`, or the label of an allocation that nothing secure has taken yet; `use` says
    for what; `pieces` is the number of separate ranges, `first` the lowest address.
    """

    holder: str
    use: Literal["zone base", "guest base", "guest variable", "cpu", "guest memory", "host"]
    secure: bool
    length: Address
    pieces: int
    first: Address


class Ledger(Message):
    """Host-absolute storage, all in bytes. `largest_free`: the longest piece that is in one."""

    size: Address
    initialised: bool
    secure: Address
    free: Address
    largest_free: Address
    held: list[Held]


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


class ApplyPlan(Message):
    """A policy to register and the steps that its plan asks for: all of it is done, or nothing."""

    policy: PolicyText
    steps: Annotated[list[Step], Field(max_length=1024)]


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
    """One request that the gate refused: the code that went to the application, why, and what was missing."""

    at: str
    apqn: ApqnText | None
    call: str
    code: str
    reason: str
    missing: str


class RefusalList(Message):
    refusals: list[Refusal]
    dropped: int


class AuditEntry(Message):
    at: str
    guest: str | None
    event: str
    detail: dict[str, str]


class AuditLog(Message):
    entries: list[AuditEntry]


class Done(Message):
    """The answer of what has nothing to tell."""


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
    Route("POST", "/memory/write", "write_storage", "write host-absolute storage", WriteStorage, Done),
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
