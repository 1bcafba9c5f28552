"""Bus in Redis: sharded publications, heard over the connection that the log's are heard over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stores.redis_keys import PREFIX, checked_prefix, digest
from stores.redis_link import RedisLink
from stores.redis_subscriber import Subscriber

__all__ = ["RedisBus"]


class RedisBus:
    """Bus of all instances, this one too. A listener is called from the event loop, as the call arrives; `listen` and
    `publish` raise Unavailable."""

    def __init__(self, link: RedisLink, subscriber: Subscriber, *, prefix: str = PREFIX) -> None:
        self._link = link
        self._subscriber = subscriber
        self._prefix = f"{checked_prefix(prefix)}:bus:"

    async def publish(self, channel: str, payload: bytes) -> None:
        await self._link.send("SPUBLISH", self._channel(channel), payload)

    async def listen(self, channel: str, listener: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        return await self._subscriber.listen(self._channel(channel), bytes, None, listener)

    def _channel(self, channel: str) -> bytes:
        return f"{self._prefix}{digest(channel)}".encode()
