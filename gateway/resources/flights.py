"""Readings that several wait for: each is done once, and goes on for as long as anyone waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from gateway.resources.port import Unavailable

__all__ = ["Flights"]

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class _Flight(Generic[_T]):
    def __init__(self, task: asyncio.Task[_T]) -> None:
        self.task = task
        self.waiting = 0


class Flights(Generic[_K, _T]):
    """Owns the tasks that read: one that nobody waits for any more is cancelled, and `close` awaits them all."""

    def __init__(self) -> None:
        self._joinable: dict[_K, _Flight[_T]] = {}
        self._tasks: set[asyncio.Task[_T]] = set()

    async def join(self, key: _K, read: Callable[[], Awaitable[_T]]) -> _T:
        """What the reading of this key gives or raises: one that is under way, or `read`, which begins now. Raises
        Unavailable where `close` ends it."""
        flight = self._joinable.get(key)
        if flight is None:
            flight = self._begin(key, read)
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task})
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # Whoever comes now begins anew, rather than join one that ends.
                self._leave(key, flight)
                flight.task.cancel()
        if flight.task.cancelled():
            raise Unavailable("The gateway is about to stop.")
        return flight.task.result()

    def part(self, concerned: Callable[[_K], bool]) -> None:
        """Nobody may join these readings any more; they go on for those who wait already."""
        for key in [key for key in self._joinable if concerned(key)]:
            del self._joinable[key]

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, key: _K, read: Callable[[], Awaitable[_T]]) -> _Flight[_T]:
        async def reading() -> _T:
            return await read()

        flight = _Flight(asyncio.create_task(reading(), name=f"reading {key}"))
        self._joinable[key] = flight
        self._tasks.add(flight.task)

        def over(task: asyncio.Task[_T]) -> None:
            self._tasks.discard(task)
            self._leave(key, flight)
            if not task.cancelled():
                task.exception()  # whoever waited has it; where nobody does, nothing is lost

        flight.task.add_done_callback(over)
        return flight

    def _leave(self, key: _K, flight: _Flight[_T]) -> None:
        if self._joinable.get(key) is flight:
            del self._joinable[key]
