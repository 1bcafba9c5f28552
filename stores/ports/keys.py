"""API keys."""

from __future__ import annotations

from typing import Protocol

from stores.records import KeyRecord

__all__ = ["KeyStore"]


class KeyStore(Protocol):
    """API keys, by digest. All methods may raise Unavailable."""

    async def add_key(self, key: KeyRecord) -> None: ...

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this digest, revoked or not."""
        ...

    async def list_keys(self) -> list[KeyRecord]:
        """All keys, oldest first."""
        ...

    async def revoke_key(self, id: str, now: float) -> bool:
        """False where there is no such key, or it was revoked before."""
        ...
