"""The guests' secret stores as the firmware keeps them: sealed in the storage that was donated for each guest.

Knows how a store is sealed and opened again; what goes into one is the secret store's own. How many secrets one takes
follows from the donation that was made for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyvisor_firmware.errors import RecordBroken, StateUnusable
from keyvisor_firmware.guests.host_key import HostKeys, Sealer
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.secrets import SecretStore, StateBroken, StoreState, decode_state, encode_state
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage import areas
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.draft import Draft
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_hsm.errors import SealBroken

_CONTEXT: Final = b"keyvisor secret store of instance "


class SecretStores:
    """Makes, seals and opens stores."""

    def __init__(
        self, holdings: Holdings, sealer: Sealer, host_keys: HostKeys, randomness: Callable[[int], bytes]
    ) -> None:
        self._holdings = holdings
        self._sealer = sealer
        self._host_keys = host_keys
        self._randomness = randomness

    def kept(self, records: Records, guest: Configuration) -> SecretStore:
        """The guest's store as it is in storage. Raises StateUnusable where it does not open."""
        instance = guest.instance
        try:
            sealed = areas.gather(self._holdings.store_area(guest), Contents(records).read)
            state = decode_state(self._sealer.unseal(sealed, _context(instance))) if sealed else StoreState()
        except (RecordBroken, SealBroken, StateBroken):
            raise StateUnusable(
                f"the secret store of guest `{instance.name}` does not open: "
                "restore the state directory as a whole, or choose another --state"
            ) from None
        return self._store(guest, state, _refuse_to_change)

    def changing(self, draft: Draft, guest: Configuration, state: StoreState) -> SecretStore:
        """A store with `state` whose next change is written with `draft`, sealed. Good for one transaction."""

        def commit(changed: StoreState) -> None:
            draft.put_store(guest, self._sealer.seal(encode_state(changed), _context(guest.instance)))

        return self._store(guest, state, commit)

    def _store(
        self, guest: Configuration, state: StoreState, commit: Callable[[StoreState], None]
    ) -> SecretStore:
        instance, record = guest.instance, guest.known
        return SecretStore(
            identity=instance.identity,
            cuid=instance.cuid,
            host_keys=self._host_keys.private,
            state=state,
            commit=commit,
            max_association_secrets=record.association_secrets,
            max_retrievable_secrets=record.retrievable_secrets,
            randomness=self._randomness,
            cck=record.cck,
            scf=record.scf,
        )


def _context(guest: Instance) -> bytes:
    """Where the store belongs: one instance, measured as it was."""
    return _CONTEXT + guest.id.encode() + guest.cuid + guest.identity.encode()


def _refuse_to_change(_state: StoreState) -> None:
    raise RuntimeError("a store changes only through SecretStores.changing, in a transaction")
