"""Secrets that are kept for their owners."""

from __future__ import annotations

from typing import Protocol

from stores.records import SecretRecord

__all__ = ["SecretStore"]


class SecretStore(Protocol):
    """Values by owner and name, sealed before they come here; no export has them. All methods may raise Unavailable,
    after which what was asked for may be done all the same.

    A `version` is compared for equality only. Every put makes one that no value under this owner and name has had,
    before a deletion either: who changes what it has read changes nothing else.
    """

    async def get_secret(self, owner: str, name: str) -> SecretRecord | None: ...

    async def put_secret(self, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
        """Put the value in the place of that with the version `expected`, or (None) where there is nothing. The new
        version, or None, and nothing changed, where something else is there: of many callers one succeeds."""
        ...

    async def delete_secret(self, owner: str, name: str) -> bool:
        """Whether there was one."""
        ...

    async def secrets_of(self, owner: str) -> list[SecretRecord]:
        """All that the owner has, by name."""
        ...

    async def delete_secrets(self, owner: str) -> int:
        """Delete all that the owner has; how many those were."""
        ...
