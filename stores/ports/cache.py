"""Small values that may be lost."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Cache"]


class Cache(Protocol):
    """Small values that may be lost at any time. `ttl` is in seconds. All methods may raise Unavailable, after which a
    value may have been set, or taken."""

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl: float) -> None: ...

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Set only where there is nothing; whether it did."""
        ...

    async def take(self, key: str) -> bytes | None:
        """Get and delete in one step: of many callers one gets the value."""
        ...
