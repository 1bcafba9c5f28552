"""An outlet and its inbox within one process: no socket, the same bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import Message

from gateway.transport.backlog import Backlog
from gateway.transport.inbox import Inbox, Signal
from gateway.transport.port import Frames

__all__ = ["MemoryPipe"]

# So many messages may be taken in a row before others have their turn in the event loop.
_IN_A_ROW = 64


class MemoryPipe:
    """Two queues. The gateway's side is an `Outlet` and `receive`; the client's is `put`, `take` and `hang_up`.

    The peer is this process, so it is always alive: `ping` does nothing and `last_seen` is always now.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox()
        self._room = Signal()
        self._unsent: deque[bytes] = deque()
        self._backlog = Backlog(self._loop)
        self._news = Signal()
        self._taken = 0
        self._on_drain: Callable[[], None] | None = None
        self.code: int | None = None
        """The close code; None while it is open."""

    # ---- the gateway's side

    async def receive(self) -> Message:
        """As ASGI's `receive`, after `websocket.connect`."""
        message = await self._inbox.take()
        self._room.wake()
        return message

    def write(self, frames: Frames) -> None:
        for payload in frames.payloads:
            self.write_one(payload)

    def write_one(self, payload: bytes) -> None:
        if self.code is not None:
            return
        self._unsent.append(payload)
        self._backlog.add(len(payload))
        self._news.wake()

    @property
    def writable(self) -> bool:
        return self._backlog.flowing and self.code is None

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._on_drain = callback
        self._backlog.on_flow = self._flows

    def close(self, code: int, reason: str) -> None:
        if self.code is None:
            self._end(code, reason, drop=True)

    def ping(self) -> None:
        """Nobody need be asked."""

    @property
    def last_seen(self) -> float:
        return self._loop.time()

    @property
    def unsent_since(self) -> float | None:
        return self._backlog.since

    @property
    def unsent(self) -> int:
        """The bytes that the client has not taken."""
        return self._backlog.size

    # ---- the client's side

    async def put(self, payload: bytes) -> bool:
        """Hand over a message; waits while the gateway has too many. False: the pipe is closed, it was not taken."""
        while self._inbox.full and self.code is None:
            await self._room.wait()
        if self.code is not None:
            return False
        self._inbox.put({"type": "websocket.receive", "text": payload.decode()}, len(payload))
        return True

    async def take(self) -> bytes | None:
        """The gateway's next message; None once it is closed and everything was taken. Cancelled, it takes none."""
        self._taken += 1
        if self._taken % _IN_A_ROW == 0:
            await asyncio.sleep(0)
        while not self._unsent:
            if self.code is not None:
                return None
            await self._news.wait()
        payload = self._unsent.popleft()
        self._backlog.take(len(payload))
        return payload

    def hang_up(self, code: int) -> None:
        """The client is gone: what it sent is still read, and nothing more is kept for it."""
        self._unsent.clear()
        self._backlog.clear()
        if self.code is None:
            self._end(code, "", drop=False)

    def _flows(self) -> None:
        if self._on_drain is not None and self.code is None:
            self._on_drain()

    def _end(self, code: int, reason: str, *, drop: bool) -> None:
        self.code = code
        self._inbox.end({"type": "websocket.disconnect", "code": code, "reason": reason}, drop=drop)
        self._room.wake()
        self._news.wake()
        if self._on_drain is not None:
            self._on_drain()
