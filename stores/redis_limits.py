"""RateLimits in Redis."""

from __future__ import annotations

from stores.memory_limits import check_rate
from stores.ports import Unavailable
from stores.redis_client import RedisClient
from stores.redis_keys import PREFIX, checked_prefix, digest

__all__ = ["RedisRateLimits"]


class RedisRateLimits:
    """RateLimits of all instances, by the server's clock, in keys `<prefix>:limit:<digest>` that go when their bucket
    is full again. Nothing is sent twice: Unavailable leaves open whether it was taken."""

    def __init__(self, client: RedisClient, *, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = f"{checked_prefix(prefix)}:limit:"

    async def take(self, name: str, n: float, per_second: float, burst: float) -> float:
        check_rate(n, per_second, burst)
        numbers = [repr(float(number)) for number in (n, per_second, burst)]
        wait = await self._client.run("take_tokens", [self._prefix + digest(name)], numbers, resend=False)
        if not isinstance(wait, bytes):
            raise Unavailable("redis: not a time to wait")
        return float(wait)
