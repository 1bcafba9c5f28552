"""Leases in Redis."""

from __future__ import annotations

from stores.redis_client import RedisClient
from stores.redis_keys import PREFIX, checked_prefix, digest

__all__ = ["RedisLeases"]


class RedisLeases:
    """Leases of all instances, by the server's clock, in keys `<prefix>:lease:<digest>` that go with their last holder.
    Times are exact to a millisecond. Everything is sent again where a reply is cut off."""

    def __init__(self, client: RedisClient, *, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = f"{checked_prefix(prefix)}:lease:"

    async def acquire(self, name: str, holder: str, limit: int, ttl: float) -> bool:
        arguments = (holder, limit, _milliseconds(ttl))
        return bool(await self._client.run("acquire_lease", [self._key(name)], arguments, resend=True))

    async def renew(self, name: str, holder: str, ttl: float) -> None:
        await self._client.run("renew_lease", [self._key(name)], (holder, _milliseconds(ttl)), resend=True)

    async def release(self, name: str, holder: str) -> None:
        await self._client.call("ZREM", self._key(name), holder, resend=True)

    def _key(self, name: str) -> str:
        return self._prefix + digest(name)


def _milliseconds(ttl: float) -> int:
    return max(1, round(ttl * 1000))
