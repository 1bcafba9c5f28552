"""Round trips to a Redis and to a gateway, measured while something else runs."""

from __future__ import annotations

import asyncio
import time
from asyncio.transports import BaseTransport, Transport
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import unquote, urlsplit

from bench.client import Closed, Frame, Target
from bench.session import Session, open_session

__all__ = ["RedisPing", "SocketPing", "repeat"]


_LOST = "the connection to Redis was lost"


class RedisPing(asyncio.Protocol):
    """A connection of its own that costs next to nothing, as the generator's client does. One `ask` at a time."""

    def __init__(self) -> None:
        self._transport: Transport
        self._buffer = b""
        self._answer: asyncio.Future[float] | None = None

    @classmethod
    async def open(cls, url: str) -> RedisPing:
        """`redis://`, `rediss://` or `unix://`, with a password or without. Raises Closed, OSError."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        if parts.scheme == "unix":
            _, ping = await loop.create_unix_connection(cls, unquote(parts.path))
        elif parts.scheme in ("redis", "rediss"):
            tls = True if parts.scheme == "rediss" else None
            _, ping = await loop.create_connection(cls, parts.hostname or "127.0.0.1", parts.port or 6379, ssl=tls)
        else:
            raise Closed("expected redis://HOST, rediss://HOST or unix:///PATH")
        if parts.password:
            await ping._exchange("AUTH", *filter(None, (unquote(parts.username or ""), unquote(parts.password))))
        return ping

    async def ask(self) -> float:
        """Seconds that a PING took. Raises Closed."""
        return await self._exchange("PING")

    def close(self) -> None:
        self._transport.abort()

    async def _exchange(self, *words: str) -> float:
        if self._transport.is_closing():
            raise Closed(_LOST)
        self._answer = asyncio.get_running_loop().create_future()
        command = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in map(str.encode, words))
        start = time.perf_counter()
        self._transport.write(b"*%d\r\n%b" % (len(words), command))
        return await self._answer - start

    def connection_made(self, transport: BaseTransport) -> None:
        self._transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer += data
        if not self._buffer.endswith(b"\r\n") or self._answer is None or self._answer.done():
            return
        if self._buffer.startswith(b"+"):
            self._answer.set_result(now)
        else:
            self._answer.set_exception(Closed(f"Redis refused: {self._buffer.split()[0].decode('latin-1')}"))
        self._buffer = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Closed(_LOST))


class SocketPing:
    """A session of its own that sends `ping` frames. One `ask` at a time."""

    def __init__(self) -> None:
        self.session: Session
        self._answer: asyncio.Future[float] | None = None

    @classmethod
    async def open(cls, target: Target) -> SocketPing:
        """Raises Closed, OSError."""
        ping = cls()
        ping.session = await open_session(target, ping._hear)
        ping.session.client.closed.add_done_callback(lambda closed: ping._lost(closed.result()))
        return ping

    async def ask(self) -> float:
        """Seconds to the `pong`. Raises Closed."""
        closed = self.session.client.closed
        self._answer = asyncio.get_running_loop().create_future()
        if closed.done():
            self._lost(closed.result())
        start = time.perf_counter()
        self.session.client.send(type="ping", id="ping")
        return await self._answer - start

    def close(self) -> None:
        self.session.client.abort()

    def _hear(self, frame: Frame, now: float) -> None:
        if frame.type == "pong" and self._answer is not None and not self._answer.done():
            self._answer.set_result(now)

    def _lost(self, code: int | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Closed(f"the session of the pings was closed with {code}"))


async def repeat(ask: Callable[[], Awaitable[float]], interval: float, into: list[float]) -> None:
    """Ask every `interval` seconds until cancelled."""
    while True:
        into.append(await ask())
        await asyncio.sleep(interval)
