"""An outlet whose frames are taken by the response that says them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.transport.backlog import Backlog
from gateway.transport.inbox import Signal
from gateway.transport.port import Frames

__all__ = ["ResponseOutlet"]


class ResponseOutlet:
    """Implements `Outlet` over a list. What was taken counts as unsent until more is asked for: a response asks once
    its client has taken what it was sent.

    A response knows by itself that its client is gone, so `ping` does nothing and `last_seen` is always now.
    """

    __slots__ = (
        "_backlog",
        "_ended",
        "_loop",
        "_news",
        "_nudged",
        "_on_drain",
        "_taken",
        "_unsent",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._backlog = Backlog(self._loop)
        self._taken = 0
        self._news = Signal()
        self._nudged = False
        self._ended = False
        self._on_drain: Callable[[], None] | None = None

    # ---- the gateway's side

    def write(self, frames: Frames) -> None:
        for payload in frames.payloads:
            self.write_one(payload)

    def write_one(self, payload: bytes) -> None:
        if self._ended:
            return
        self._unsent.append(payload)
        self._backlog.add(len(payload))
        self._news.wake()

    @property
    def writable(self) -> bool:
        return self._backlog.flowing and not self._ended

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._on_drain = callback
        self._backlog.on_flow = self._flows

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
        return self._backlog.since

    # ---- the response's side

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self._unsent

    @property
    def unsent(self) -> int:
        """The bytes that are held for the client."""
        return self._backlog.size

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
        self._taken = self._backlog.size
        return payloads

    def nudge(self) -> None:
        """Let `take` answer though nothing was written."""
        self._nudged = True
        self._news.wake()

    def drop(self) -> None:
        """The client is gone: nothing is kept for it any more."""
        self._ended = True
        self._unsent.clear()
        self._backlog.clear()
        self._taken = 0
        self._news.wake()

    def _release(self) -> None:
        """What was taken before has been sent."""
        taken, self._taken = self._taken, 0
        if taken:
            self._backlog.take(taken)

    def _flows(self) -> None:
        if self._on_drain is not None and not self._ended:
            self._on_drain()
