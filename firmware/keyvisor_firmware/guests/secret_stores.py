"""The guests' secret stores as the firmware keeps them: sealed on disk, each for one start of one guest.

Knows how a store is sealed and opened again; what goes into one is the secret store's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyvisor_firmware.config import Limits
from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.guests.boot_secrets import BootSecrets, seal_boot_secrets, unseal_boot_secrets
from keyvisor_firmware.guests.host_key import HostKeys, Sealer
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.secrets import SecretStore, StateBroken, StoreState, decode_state, encode_state
from keyvisor_firmware.state.records import Records
from keyvisor_hsm.errors import SealBroken

_CONTEXT: Final = b"keyvisor secret store of instance "


class SecretStores:
    """Makes, seals and opens stores; `limits` say what room each has."""

    def __init__(
        self, sealer: Sealer, host_keys: HostKeys, limits: Limits, randomness: Callable[[int], bytes]
    ) -> None:
        self._sealer = sealer
        self._host_keys = host_keys
        self._limits = limits
        self._randomness = randomness

    def begin(self, records: Records, guest: Instance, boot: BootSecrets) -> None:
        """Keep what the image's header says of the store of a guest that starts, sealed."""
        records.put_boot_secrets(guest.id, seal_boot_secrets(boot, guest, self._sealer))

    def boot_secrets(self, records: Records, guest: Instance) -> BootSecrets:
        """What the image's header said. Raises StateUnusable where that does not open."""
        return unseal_boot_secrets(records.boot_secrets(guest.id) or b"", guest, self._sealer)

    def kept(self, records: Records, guest: Instance) -> SecretStore:
        """The guest's store as it is on disk. Raises StateUnusable where that, or its boot secrets, does not open."""
        sealed = records.secret_store(guest.id)
        state = StoreState() if sealed is None else self._unsealed(sealed, guest)
        return self._store(guest, state, self.boot_secrets(records, guest), _refuse_to_change)

    def changing(self, records: Records, guest: Instance, state: StoreState) -> SecretStore:
        """A store with `state` whose next change is written with `records`, sealed. Good for one transaction."""

        def commit(changed: StoreState) -> None:
            records.put_secret_store(guest.id, self._sealer.seal(encode_state(changed), _context(guest)))

        return self._store(guest, state, self.boot_secrets(records, guest), commit)

    def _store(
        self, guest: Instance, state: StoreState, boot: BootSecrets, commit: Callable[[StoreState], None]
    ) -> SecretStore:
        return SecretStore(
            identity=guest.identity,
            cuid=guest.cuid,
            host_keys=self._host_keys.private,
            state=state,
            commit=commit,
            max_association_secrets=self._limits.association_secrets,
            max_retrievable_secrets=self._limits.retrievable_secrets,
            randomness=self._randomness,
            cck=boot.cck,
            scf=boot.scf,
        )

    def _unsealed(self, sealed: bytes, guest: Instance) -> StoreState:
        try:
            return decode_state(self._sealer.unseal(sealed, _context(guest)))
        except (SealBroken, StateBroken):
            raise StateUnusable(
                f"the secret store of guest `{guest.name}` does not open: "
                "restore the state directory as a whole, or choose another --state"
            ) from None


def _context(guest: Instance) -> bytes:
    """Where the store belongs: one instance, measured as it was."""
    return _CONTEXT + guest.id.encode() + guest.cuid + guest.identity.encode()


def _refuse_to_change(_state: StoreState) -> None:
    raise RuntimeError("a store changes only through SecretStores.changing, in a transaction")
