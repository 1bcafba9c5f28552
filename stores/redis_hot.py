"""The hot ports of all instances that share a Redis or Valkey primary."""

from __future__ import annotations

import time
from collections.abc import Callable

from stores.redis_bus import RedisBus
from stores.redis_heartbeats import RedisHeartbeats
from stores.redis_keys import PREFIX
from stores.redis_link import RedisLink
from stores.redis_log import RedisLog
from stores.redis_subscriber import Subscriber
from stores.redis_wire import Dial

__all__ = ["RedisHot"]


class RedisHot:
    """`run` until cancelled hears what is published; without it, following and listening are Unavailable. Nothing else
    needs it. `close` after it.

    `max_bytes`, `ttl` and `keep_ids` are RedisLog's. A call takes `timeout` seconds at most. A connection that is
    silent for three times `ping` seconds is given up. `clock` is that of heartbeats.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        max_bytes: int = 1 << 20,
        ttl: float = 600.0,
        keep_ids: float = 3600.0,
        heartbeat_ttl: float = 5.0,
        timeout: float = 3.0,
        ping: float = 3.0,
        connections: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects to nothing yet. Raises RedisUrlError, and ValueError for a wrong prefix."""
        self._link = RedisLink(url, timeout=timeout, connections=connections)
        self._subscriber = Subscriber(Dial(url, timeout=timeout), timeout=timeout, interval=ping)
        self.log = RedisLog(
            self._link, self._subscriber, prefix=prefix, max_bytes=max_bytes, ttl=ttl, keep_ids=keep_ids
        )
        self.bus = RedisBus(self._link, self._subscriber, prefix=prefix)
        self.heartbeats = RedisHeartbeats(self._link, prefix=prefix, ttl=heartbeat_ttl, clock=clock)

    async def run(self) -> None:
        await self._subscriber.run()

    async def close(self) -> None:
        await self._link.close()
