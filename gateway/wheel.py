"""One timer for all sockets: heartbeats, hello deadlines and expiries go round in slots of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

__all__ = ["Wheel"]

_log = structlog.get_logger(__name__)


class Wheel:
    """Calls back after about `delay` seconds, up to one `tick` late. A callback that is not wanted any more is
    cancelled by its handle; both cost O(1), and neither makes a timer of the event loop."""

    def __init__(self, tick: float = 1.0) -> None:
        self._tick = tick
        self._now = 0
        self._slots: dict[int, dict[Callable[[], None], None]] = {}

    def after(self, delay: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once; the answer cancels it. A callback waits once at a time in a slot."""
        slot = self._now + max(0, int(delay / self._tick)) + 1
        waiting = self._slots.setdefault(slot, {})
        waiting[callback] = None

        def cancel() -> None:
            waiting.pop(callback, None)

        return cancel

    def turn(self) -> None:
        """One tick has gone by."""
        self._now += 1
        waiting = self._slots.pop(self._now, {})
        for callback in list(waiting):
            if callback not in waiting:
                continue  # one before it, of this very tick, cancelled it
            try:
                callback()
            except Exception:  # noqa: BLE001 - the boundary to callbacks: one that fails must not stop everybody's heartbeat
                _log.exception("a callback of the wheel failed")

    async def run(self) -> None:
        """Turn until cancelled. A tick that comes late is made up for, so that deadlines don't drift."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._tick
            await asyncio.sleep(max(0.0, due - loop.time()))
            if loop.time() - due > 10 * self._tick:
                due = loop.time()  # the machine slept: deadlines go on from here
            self.turn()
