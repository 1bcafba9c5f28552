"""An outlet over plain ASGI, for servers without ours."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import Send

from gateway.transport.backlog import Backlog
from gateway.transport.port import CLOSE_SECONDS, Frames

__all__ = ["AsgiOutlet"]


class AsgiOutlet:
    """Implements `Outlet` with one task a socket, `run`, which the caller owns and cancels at the end.

    Signs of life are the ASGI server's matter: it sends pings of its own, and a dead peer shows as its disconnect. So
    `ping` does nothing and `last_seen` is always now.
    """

    __slots__ = (
        "_backlog",
        "_closing",
        "_limit",
        "_loop",
        "_news",
        "_on_drain",
        "_send",
        "_unsent",
    )

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[bytes] = deque()
        self._backlog = Backlog(self._loop)
        self._closing: tuple[int, str] | None = None
        self._limit: asyncio.Timeout | None = None
        self._news = asyncio.Event()
        self._on_drain: Callable[[], None] | None = None

    async def run(self) -> None:
        """Send what is written, until the socket is closed from either side."""
        try:
            try:
                async with asyncio.timeout(None if self._closing is None else CLOSE_SECONDS) as self._limit:
                    await self._write_on()
            except TimeoutError:
                self._drop()
            code, reason = self._closing or (1011, "")
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:
            # So ASGI says that the client is gone; `receive` says it too.
            return
        finally:
            self._closing = self._closing or (1006, "")
            self._drop()
            if self._on_drain is not None:
                self._on_drain()

    def write(self, frames: Frames) -> None:
        for payload in frames.payloads:
            self.write_one(payload)

    def write_one(self, payload: bytes) -> None:
        if self._closing is not None:
            return
        self._unsent.append(payload)
        self._backlog.add(len(payload))
        self._news.set()

    @property
    def writable(self) -> bool:
        return self._backlog.flowing and self._closing is None

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._on_drain = callback
        self._backlog.on_flow = self._flows

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = (code, reason)
            self._news.set()
            if self._limit is not None:
                self._limit.reschedule(self._loop.time() + CLOSE_SECONDS)

    def ping(self) -> None:
        """The ASGI server pings."""

    @property
    def last_seen(self) -> float:
        return self._loop.time()

    @property
    def unsent_since(self) -> float | None:
        return self._backlog.since

    def _drop(self) -> None:
        self._unsent.clear()
        self._backlog.clear()

    def _flows(self) -> None:
        if self._on_drain is not None and self._closing is None:
            self._on_drain()

    async def _write_on(self) -> None:
        while True:
            await self._flush()
            if self._closing is not None:
                return
            await self._news.wait()
            self._news.clear()

    async def _flush(self) -> None:
        while self._unsent:
            payload = self._unsent[0]
            await self._send({"type": "websocket.send", "text": payload.decode()})
            self._unsent.popleft()
            self._backlog.take(len(payload))
