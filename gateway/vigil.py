"""Watches one socket for signs of life, a `hello` in time, and credentials that end (docs/protocol.md, section 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.transport.port import Outlet
from gateway.wheel import Wheel

__all__ = ["Vigil"]

_UNSENT_ALIVE = 300.0
_WARNING = 60.0

Cancel = Callable[[], None]


class Vigil:
    """Timers of one socket, all on the shared wheel. `close(code)` ends it. Times are in seconds."""

    __slots__ = ("_beat", "_close", "_expiry", "_heartbeat", "_hello", "_outlet", "_wheel")

    def __init__(
        self, wheel: Wheel, outlet: Outlet, heartbeat: float, hello_seconds: float, close: Callable[[int], None]
    ) -> None:
        self._wheel = wheel
        self._outlet = outlet
        self._heartbeat = heartbeat
        self._close = close
        self._hello: Cancel | None = wheel.after(hello_seconds, self._no_hello)
        self._beat: Cancel = wheel.after(heartbeat, self._look)
        self._expiry: list[Cancel] = []

    def welcome(self) -> None:
        """`hello` came."""
        if self._hello is not None:
            self._hello()
            self._hello = None

    def expire(self, left: float, warn: Callable[[], None]) -> None:
        """Credentials end in `left` seconds: warn a minute before, then close."""
        self._expiry = [
            self._wheel.after(max(0.0, left - _WARNING), warn),
            self._wheel.after(max(0.0, left), self._expired),
        ]

    def renew(self) -> None:
        """The credentials were replaced."""
        for cancel in self._expiry:
            cancel()
        self._expiry = []

    def end(self) -> None:
        """Nobody watches a socket that is closed."""
        self.welcome()
        self.renew()
        self._beat()

    def _no_hello(self) -> None:
        self._close(4408)

    def _expired(self) -> None:
        self._close(4401)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        unsent = self._outlet.unsent_since
        # A socket that is still being written to is slow, not dead, for a while.
        busy = unsent is not None and now - unsent < _UNSENT_ALIVE
        if not busy and now - self._outlet.last_seen > 2.2 * self._heartbeat:
            self._close(4408)
            return
        self._outlet.ping()
        self._beat = self._wheel.after(self._heartbeat, self._look)
