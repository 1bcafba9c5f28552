"""Heartbeats in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

from stores.ports import Unavailable
from stores.redis_keys import PREFIX, checked_prefix
from stores.redis_link import Call, RedisLink, Script, load
from stores.redis_log_wire import as_bytes, as_list
from stores.redis_wire import Argument, Reply

__all__ = ["RedisHeartbeats"]

_ALIVE, _BEAT = load("alive"), load("beat")


class RedisHeartbeats:
    """Heartbeats of all instances, each over after its time by the server's clock.

    `alive` judges only when one server (one run_id) has answered this object without break for `ttl` seconds: before,
    instances may have had no chance to beat. A failed call is a break, and so is a longer time without any. All calls
    raise Unavailable.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        prefix: str = PREFIX,
        ttl: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._key = f"{checked_prefix(prefix)}:heartbeats"
        self._ttl = ttl
        self._clock = clock
        self._run_id = b""
        self._since: float | None = None
        self._last = 0.0

    async def beat(self, instance: str, ttl: float) -> None:
        await self._run(_BEAT, instance, max(1, round(ttl * 1000)))

    async def stop(self, instance: str) -> None:
        try:
            await self._link.send("ZREM", self._key, instance)
        except Unavailable:
            self._since = None
            raise

    async def alive(self) -> frozenset[str] | None:
        asked = self._clock()
        reply = await self._run(_ALIVE)
        if self._since is None or asked - self._since < self._ttl:
            return None
        return frozenset(as_bytes(instance).decode() for instance in as_list(reply))

    async def _run(self, script: Script, *arguments: Argument) -> Reply:
        try:
            run_id, (reply,) = await self._link.run([Call(script, [self._key], arguments)])
            if isinstance(reply, Unavailable):
                raise reply
        except Unavailable:
            self._since = None
            raise
        now = self._clock()
        if self._since is None or run_id != self._run_id or now - self._last > self._ttl:
            self._since = now
        self._run_id, self._last = run_id, now
        return reply
