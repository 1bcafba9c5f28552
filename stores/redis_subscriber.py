"""What is published in Redis, heard over one connection: subscribed to what somebody here listens to, nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import structlog
from redis.exceptions import RedisError

from stores.ports import Unavailable
from stores.redis_subscriptions import Subscriptions
from stores.redis_wire import Dial, Wire

__all__ = ["Subscriber"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# Seconds: a connection that lived shorter may have been refused what it asked for, as the next one will be.
_SETTLED = 5.0
# Ticks that a ping may stay without answer. One is not enough: an event loop that stood still for a tick finds the
# answer only after it.
_PATIENCE = 2


class _Topic(Generic[_T]):
    """A channel and who listens to it here. `lost` is what they are handed when messages may have been lost."""

    __slots__ = ("confirmed", "decode", "listeners", "lost", "waiting")

    def __init__(self, decode: Callable[[bytes], _T], lost: _T | None) -> None:
        self.decode = decode
        self.lost = lost
        self.listeners: list[Callable[[_T], None]] = []
        # Those whose `listen` has not returned, which therefore have missed nothing.
        self.waiting: set[Callable[[_T], None]] = set()
        # Set while messages are handed on.
        self.confirmed = asyncio.Event()

    def hear(self, payload: bytes) -> None:
        try:
            item = self.decode(payload)
        except ValueError:
            # Not one of ours, in our channel.
            _log.warning("redis: a message can't be read")
            self.look()
        else:
            self._hand(self.listeners, item)

    def confirm(self) -> None:
        self.confirmed.set()
        self.look()

    def look(self) -> None:
        if self.lost is not None:
            self._hand([listener for listener in self.listeners if listener not in self.waiting], self.lost)

    def _hand(self, listeners: list[Callable[[_T], None]], item: _T) -> None:
        for listener in tuple(listeners):
            try:
                listener(item)
            except Exception:  # noqa: BLE001 - one listener's fault must not keep the others from hearing
                _log.exception("a listener failed")


class Subscriber:
    """`run` connects and hears, until cancelled; it comes back by itself. A ping is sent every `interval` seconds, and
    a connection that does not answer two of them is given up. `timeout` (seconds) is how long `listen` waits."""

    def __init__(self, dial: Dial, *, timeout: float = 3.0, interval: float = 3.0) -> None:
        self._dial = dial
        self._timeout = timeout
        self._interval = interval
        self._topics: dict[bytes, _Topic[Any]] = {}
        self._subscriptions: Subscriptions | None = None
        self._unanswered = 0

    async def listen(
        self, channel: bytes, decode: Callable[[bytes], _T], lost: _T | None, listener: Callable[[_T], None]
    ) -> Callable[[], Awaitable[None]]:
        """Hand every message of the channel to `listener`, decoded, and `lost` whenever some may have been lost. All
        listeners of a channel give the same `decode` and `lost`. Answers how to stop. Raises Unavailable where the
        server does not confirm in time."""
        topic: _Topic[_T] | None = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(decode, lost)
            self._changed(channel)
            # Where it was given up a moment ago, the server was not told yet, and will not be.
            if self._subscriptions is not None and self._subscriptions.confirmed(channel):
                topic.confirmed.set()

        def hand(item: _T) -> None:  # each call counts by itself, though the same listener came twice
            listener(item)

        async def stop() -> None:
            self._leave(channel, topic, hand)

        topic.listeners.append(hand)
        topic.waiting.add(hand)
        try:
            async with asyncio.timeout(self._timeout):
                await topic.confirmed.wait()
        except BaseException as error:
            self._leave(channel, topic, hand)
            if isinstance(error, TimeoutError):
                raise Unavailable("redis: the subscription is not confirmed") from error
            raise
        topic.waiting.discard(hand)
        return stop

    def check(self) -> None:
        """Raises Unavailable where somebody listens, and nothing would be heard."""
        if self._topics and (self._subscriptions is None or self._unanswered >= _PATIENCE):
            raise Unavailable("redis: what is published does not arrive")

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                wire = await self._dial.wire()
            except (RedisError, OSError) as error:
                _log.warning("redis: can't subscribe", error=type(error).__name__)
            else:
                since = time.monotonic()
                await self._hear(wire)
                if time.monotonic() - since > _SETTLED:
                    pause = _FIRST_PAUSE
            # Each instance a different time: they all lost it at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads, protects nothing
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _hear(self, wire: Wire) -> None:
        """Hear until the connection ends."""
        subscriptions = Subscriptions(wire, self._topics)
        self._unanswered = 0
        try:
            subscriptions.changed(self._topics)
            self._subscriptions = subscriptions
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(subscriptions))
                group.create_task(self._tick(subscriptions))
                await subscriptions.write()
        except* (RedisError, OSError) as errors:
            _log.warning("redis: the subscription ended", error=type(errors.exceptions[0]).__name__)
        finally:
            self._subscriptions = None
            await wire.drop()
            for topic in tuple(self._topics.values()):
                topic.confirmed.clear()

    async def _read(self, subscriptions: Subscriptions) -> None:
        while True:
            heard = await subscriptions.next()
            self._unanswered = 0
            topic = self._topics.get(heard.channel)
            if topic is None:
                continue
            match heard.kind:
                case "message":
                    topic.hear(heard.payload)
                case "confirmed":
                    topic.confirm()
                case _:
                    topic.confirmed.clear()
                    topic.look()

    async def _tick(self, subscriptions: Subscriptions) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self._unanswered >= _PATIENCE:
                raise TimeoutError("the server is silent")
            self._unanswered += 1
            subscriptions.ping()

    def _changed(self, channel: bytes) -> None:
        if self._subscriptions is not None:
            self._subscriptions.changed((channel,))

    def _leave(self, channel: bytes, topic: _Topic[Any], listener: Callable[[Any], None]) -> None:
        if listener in topic.listeners:
            topic.listeners.remove(listener)
        if not topic.listeners and self._topics.get(channel) is topic:
            del self._topics[channel]
            self._changed(channel)
