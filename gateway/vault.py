"""Values that are kept sealed, each under its owner and name: structs over a SecretStore."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec
import structlog
from msgspec import Struct

from gateway.encryption import EncryptionError, Sealer
from stores.ports import SecretStore
from stores.records import SecretRecord

__all__ = ["Kept", "Vault"]

_T = TypeVar("_T", bound=Struct)
_log = structlog.stdlib.get_logger(__name__)


class Kept(Struct, Generic[_T], frozen=True):
    """A value, None where it does not open (any more), and the version that replaces it."""

    value: _T | None
    version: int


class Vault(Generic[_T]):
    """Values of the struct `shape`. A value that an older key sealed is sealed anew when it is read. All methods raise
    as those of SecretStore."""

    def __init__(self, store: SecretStore, sealer: Sealer, shape: type[_T]) -> None:
        self._store = store
        self._sealer = sealer
        self._decode = msgspec.json.Decoder(shape).decode

    async def get(self, owner: str, name: str) -> Kept[_T] | None:
        record = await self._store.get_secret(owner, name)
        if record is None:
            return None
        kept = self._opened(owner, record)
        if kept.value is None or self._sealer.is_current(record.value):
            return kept
        version = await self.put(owner, name, kept.value, record.version)
        return kept if version is None else Kept(kept.value, version)

    async def put(self, owner: str, name: str, value: _T, expected: int | None) -> int | None:
        """As SecretStore.put_secret."""
        sealed = self._sealer.seal(owner, name, msgspec.json.encode(value))
        return await self._store.put_secret(owner, name, sealed, expected)

    async def delete(self, owner: str, name: str) -> bool:
        return await self._store.delete_secret(owner, name)

    async def all(self, owner: str) -> dict[str, _T | None]:
        """What the owner has, by name, whatever it is: None for what does not open, or is no `shape`."""
        records = await self._store.secrets_of(owner)
        return {record.name: self._opened(owner, record).value for record in records}

    def _opened(self, owner: str, record: SecretRecord) -> Kept[_T]:
        try:
            return Kept(self._decode(self._sealer.open(owner, record.name, record.value)), record.version)
        except (EncryptionError, msgspec.MsgspecError) as error:
            # Not what is in it: an error of the decoder may quote that.
            _log.warning("a_secret_does_not_open", name=record.name, why=type(error).__name__)
            return Kept(None, record.version)
