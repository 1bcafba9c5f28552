"""Cache in Redis."""

from __future__ import annotations

from stores.redis_client import RedisClient, Reply
from stores.redis_keys import PREFIX, checked_prefix, digest

__all__ = ["RedisCache"]


class RedisCache:
    """Cache of all instances, in keys `<prefix>:cache:<digest>`. Times are exact to a millisecond.

    `get` and `set` are sent again where a reply is cut off. `add` and `take` are not: the second reply would deny what
    the first request did. Unavailable leaves open whether they did it; a value that was taken so is lost.
    """

    def __init__(self, client: RedisClient, *, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = f"{checked_prefix(prefix)}:cache:"

    async def get(self, key: str) -> bytes | None:
        return _value(await self._client.call("GET", self._key(key), resend=True))

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        await self._client.call("SET", self._key(key), value, "PX", _milliseconds(ttl), resend=True)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        command = ("SET", self._key(key), value, "PX", _milliseconds(ttl), "NX")
        return bool(await self._client.call(*command, resend=False))

    async def take(self, key: str) -> bytes | None:
        return _value(await self._client.call("GETDEL", self._key(key), resend=False))

    def _key(self, key: str) -> str:
        return self._prefix + digest(key)


def _value(reply: Reply) -> bytes | None:
    return reply if isinstance(reply, bytes) else None


def _milliseconds(ttl: float) -> int:
    return max(1, round(ttl * 1000))
