"""How often, and how many at a time, each principal may run tools, on all instances together (docs/tools.md)."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Final

import structlog
from msgspec import Meta, Struct

from gateway.core.policy import matches
from gateway.tools.port import ToolContext, ToolOutcome
from protocol.ids import new_id
from stores.ports import Leases, RateLimits, Unavailable

__all__ = ["LEASE_SECONDS", "ToolLimit", "ToolLimits"]

_log = structlog.get_logger(__name__)

LEASE_SECONDS: Final = 10.0
"""For so long the places of an instance that has died are taken."""

_RENEWALS = 3
# Of one principal under one limit, in this process.
_MOST_WAITING = 100
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class ToolLimit(Struct, frozen=True, kw_only=True):
    """Of all tools that a pattern matches, together, for each principal; `wait_seconds` is how long a call waits its
    turn."""

    per_minute: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    concurrent: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    wait_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0


class _Refused(Exception):
    """The turn of the call did not come in time."""

    def __init__(self, outcome: ToolOutcome) -> None:
        super().__init__(outcome.result)
        self.outcome = outcome


class _Queue:
    """Those of this process that wait for one thing, in their order: the first asks for it. `news` says that it may be
    there."""

    def __init__(self) -> None:
        self.first = asyncio.Lock()
        self.news = asyncio.Event()
        self.length = 0


class ToolLimits:
    """`limits` are by pattern, as in permissions. Of those that match a tool the longest that has a rate is its rate,
    and the longest that has a number its number. `spread` is a number between 0 and 1, other ones for other instances,
    that says how much of a pause is kept."""

    def __init__(
        self,
        limits: Mapping[str, ToolLimit],
        rates: RateLimits,
        leases: Leases,
        *,
        lease_seconds: float = LEASE_SECONDS,
        spread: Callable[[], float] = random.random,
    ) -> None:
        by_length = sorted(limits.items(), key=lambda item: len(item[0]), reverse=True)
        self._rates_of = [(pattern, limit) for pattern, limit in by_length if limit.per_minute is not None]
        self._places_of = [(pattern, limit) for pattern, limit in by_length if limit.concurrent is not None]
        self._rates = rates
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._spread = spread
        self._queues: dict[str, _Queue] = {}
        self._releases: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def admit(self, context: ToolContext, tool: str) -> AsyncGenerator[ToolOutcome | None]:
        """Wait the turn of the call, and hold its place while the block runs. Gives None, or how the call ends without
        having run. A store that is away is asked until the time to wait is over; what runs is not disturbed by it."""
        rate, place = _longest(self._rates_of, tool), _longest(self._places_of, tool)
        if rate is None and place is None:
            yield None
            return
        call = _Waiting(context, tool)
        refusal: ToolOutcome | None = None
        name, holder = "", new_id("lease_")
        renewal: asyncio.Task[None] | None = None
        try:
            try:
                if rate is not None:
                    await self._count(call, *rate)
                if place is not None:
                    name = f"tool:{context.principal.owner}:{place[0]}"
                    await self._take_place(call, name, holder, place[1])
                    renewal = asyncio.create_task(self._keep(name, holder), name=f"place {name}")
            except _Refused as refused:
                refusal = refused.outcome
            yield refusal
        finally:
            # Also where it was not told that it has one.
            if name:
                self._leave(name, holder, renewal)

    async def close(self) -> None:
        """Wait for the places that are being given up, each of which takes as long as one call of the store."""
        if self._releases:
            await asyncio.wait(self._releases)

    # ---- waiting

    async def _count(self, call: _Waiting, pattern: str, limit: ToolLimit) -> None:
        """Have the call counted, whether or not it then gets a place. Raises _Refused."""
        name, per_minute = f"tool:{call.context.principal.owner}:{pattern}", limit.per_minute or 0
        until = call.since + limit.wait_seconds
        words = f"runs {per_minute:g} times a minute at most for each user"
        pause = _FIRST_PAUSE
        async with self._in_line(f"rate:{name}", call, until, words):
            while True:
                try:
                    wait = await self._rates.take(name, 1, per_minute / 60, max(1.0, per_minute))
                    if not wait:
                        return
                    if call.now + wait > until:
                        raise call.refused(f"{words}; try again in {math.ceil(wait)} s")
                except Unavailable as error:
                    wait, pause = self._next_pause(call, until, pause, error)
                call.waits()
                await asyncio.sleep(wait)

    async def _take_place(self, call: _Waiting, name: str, holder: str, limit: ToolLimit) -> None:
        """Have a place. Raises _Refused."""
        until, concurrent = call.since + limit.wait_seconds, limit.concurrent or 0
        words = f"runs {concurrent} at a time at most for each user, and none of them ended"
        pause = _FIRST_PAUSE
        async with self._in_line(name, call, until, words) as queue:
            while True:
                queue.news.clear()
                away: Unavailable | None = None
                try:
                    if await self._leases.acquire(name, holder, concurrent, self._lease_seconds):
                        return
                except Unavailable as error:
                    away = error
                if away is None and call.now >= until:
                    raise call.refused(words)
                wait, pause = self._next_pause(call, until, pause, away)
                call.waits()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await queue.news.wait()

    def _next_pause(self, call: _Waiting, until: float, pause: float, away: Unavailable | None) -> tuple[float, float]:
        """How long to wait before one asks again, and the pause after that. Raises _Refused."""
        left = until - call.now
        if away is not None and left <= 0:
            _log.warning("a tool's limits can't be asked", tool=call.tool, reason=str(away))
            raise call.refused("can't be run now: its limits are not known for the moment", away=True)
        return min(left, pause * (0.5 + self._spread() / 2)), min(2 * pause, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _in_line(self, name: str, call: _Waiting, until: float, words: str) -> AsyncGenerator[_Queue]:
        """Behind those of this process that wait for the same."""
        queue = self._queues.setdefault(name, _Queue())
        if queue.length >= _MOST_WAITING:
            raise call.refused(f"{words}, and too many calls wait")
        queue.length += 1
        try:
            if queue.first.locked():
                call.waits()
            try:
                async with asyncio.timeout_at(until):
                    await queue.first.acquire()
            except TimeoutError:
                raise call.refused(words) from None
            try:
                yield queue
            finally:
                queue.first.release()
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[name]

    # ---- a place that is held

    async def _keep(self, name: str, holder: str) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / _RENEWALS)
            try:
                await self._leases.renew(name, holder, self._lease_seconds)
            except Unavailable as error:
                # The call runs, and its place is taken again as soon as that can be told to anybody.
                _log.warning("a place of a running call was not renewed", reason=str(error))

    def _leave(self, name: str, holder: str, renewal: asyncio.Task[None] | None) -> None:
        task = asyncio.create_task(self._give_up(name, holder, renewal), name=f"leave {name}")
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _give_up(self, name: str, holder: str, renewal: asyncio.Task[None] | None) -> None:
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait((renewal,))
        try:
            await self._leases.release(name, holder)
        except Unavailable as error:
            _log.warning("a place was not given up, and is free when its time is over", reason=str(error))
        queue = self._queues.get(name)
        if queue is not None:
            queue.news.set()


class _Waiting:
    """A call on its way to its turn. Times are the event loop's."""

    def __init__(self, context: ToolContext, tool: str) -> None:
        self.context = context
        self.tool = tool
        self.since = self.now
        self._told = False

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def waits(self) -> None:
        """Whoever follows the call is told, once."""
        if not self._told:
            self._told = True
            self.context.report(0, None, "waits its turn")

    def refused(self, words: str, *, away: bool = False) -> _Refused:
        code = "unavailable" if away else "rate_limited"
        return _Refused(ToolOutcome(status="error", result=f"{self.tool} {words}", code=code))


def _longest(limits: Sequence[tuple[str, ToolLimit]], tool: str) -> tuple[str, ToolLimit] | None:
    """The first that matches, of those that are sorted by length."""
    return next((found for found in limits if matches(found[0], tool)), None)
