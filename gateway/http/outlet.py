"""An outlet whose frames are taken by the response that says them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.transport.inbox import Signal
from gateway.transport.port import HIGH_WATER, LOW_WATER, Frames

__all__ = ["ResponseOutlet"]


class ResponseOutlet:
    """Implements `Outlet` over a list. What was taken counts as unsent until more is asked for: a response asks once
    its client has taken what it was sent.

    A response knows by itself that its client is gone, so `ping` does nothing and `last_seen` is always now.
    """

    __slots__ = (
        "_ended",
        "_loop",
        "_news",
        "_nudged",
        "_on_drain",
        "_size",
        "_taken",
        "_unsent",
        "_unsent_since",
        "_writable",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._size = 0
        self._taken = 0
        self._unsent_since: float | None = None
        self._news = Signal()
        self._nudged = False
        self._ended = False
        self._on_drain: Callable[[], None] | None = None
        self._writable = True

    # ---- the gateway's side

    def write(self, frames: Frames) -> None:
        for payload in frames.payloads:
            self.write_one(payload)

    def write_one(self, payload: bytes) -> None:
        if self._ended:
            return
        if not self._size:
            self._unsent_since = self._loop.time()
        self._unsent.append(payload)
        self._size += len(payload)
        if self._size > HIGH_WATER:
            self._writable = False
        self._news.wake()

    @property
    def writable(self) -> bool:
        return self._writable and not self._ended

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._on_drain = callback

    def close(self, code: int, reason: str) -> None:
        """A response has no code: what is unsent is still taken, then comes the end."""
        self._ended = True
        self._news.wake()

    def ping(self) -> None:
        """Nobody need be asked."""

    @property
    def last_seen(self) -> float:
        return self._loop.time()

    @property
    def unsent_since(self) -> float | None:
        return self._unsent_since if self._size else None

    # ---- the response's side

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self._unsent

    @property
    def unsent(self) -> int:
        """The bytes that are held for the client."""
        return self._size

    async def take(self) -> list[bytes] | None:
        """All that was written since; waits for it. Empty after a `nudge`, None at the end."""
        self._release()
        while not self._unsent:
            if self._ended:
                return None
            if self._nudged:
                self._nudged = False
                return []
            await self._news.wait()
        payloads, self._unsent = self._unsent, []
        self._taken = self._size
        return payloads

    def nudge(self) -> None:
        """Let `take` answer though nothing was written."""
        self._nudged = True
        self._news.wake()

    def drop(self) -> None:
        """The client is gone: nothing is kept for it any more."""
        self._ended = True
        self._unsent.clear()
        self._size = self._taken = 0
        self._news.wake()

    def _release(self) -> None:
        """What was taken before has been sent."""
        if not self._taken:
            return
        self._size = max(0, self._size - self._taken)
        self._taken = 0
        self._unsent_since = self._loop.time()
        if not self._writable and self._size <= LOW_WATER:
            self._writable = True
            if self._on_drain is not None and self.writable:
                self._on_drain()
