"""Places of which there are only so many, wherever they are taken."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Leases"]


class Leases(Protocol):
    """So many places by name, each held by a `holder` for `ttl` seconds: that of an instance that has died is free when
    its time is over. All methods may be sent again, and may raise Unavailable, after which a place may be held, or not
    be held any more."""

    async def acquire(self, name: str, holder: str, limit: int, ttl: float) -> bool:
        """Take a place where fewer than `limit` others have one, at one stroke; who has one already keeps it for `ttl`
        from now, whatever the limit is."""
        ...

    async def renew(self, name: str, holder: str, ttl: float) -> None:
        """Keep the place for `ttl` from now, or have it again, over the limit too: its holder goes on without it."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Give the place up; nothing where there is none."""
        ...
