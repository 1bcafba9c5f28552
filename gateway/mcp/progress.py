"""The progress of a call to an MCP server, at a rate that is worth showing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.mcp.descriptions import clean

__all__ = ["PER_SECOND", "Progress"]

PER_SECOND: Final = 20
_MESSAGE: Final = 1_000

Report = Callable[[float, float | None, str | None], None]


class Progress:
    """Passes on what a server reports, at most PER_SECOND times a second: the first report at once, then the latest of
    each span, and the last one before `close`. In one event loop."""

    def __init__(self, report: Report, per_second: float = PER_SECOND) -> None:
        self._report = report
        self._span = 1 / per_second
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()
        self._waiting: tuple[float, float | None, str | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        """As the SDK calls it. What comes after `close` is dropped: servers may report beyond their answer."""
        if self._closed:
            return
        self._waiting = (progress, total, message)
        if self._timer is not None:
            return
        now = self._loop.time()
        if now >= self._next:
            self._pass_on()
        else:
            self._timer = self._loop.call_at(self._next, self._pass_on)

    def close(self) -> None:
        """Pass on what waits, and nothing after it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._pass_on()

    def _pass_on(self) -> None:
        self._timer = None
        self._next = self._loop.time() + self._span
        if self._waiting is not None:
            progress, total, message = self._waiting
            self._waiting = None
            self._report(progress, total, None if message is None else clean(message, _MESSAGE))
