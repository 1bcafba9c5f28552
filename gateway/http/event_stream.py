"""A response of Server-Sent Events, which lasts as long as what it follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from gateway.conversations import refusal
from gateway.http.format import Format
from gateway.http.streams import Following
from gateway.http.told import Told
from gateway.transport.abort import abort_of
from gateway.transport.port import HIGH_WATER
from protocol.frames import Snapshot, TurnEnd
from stores.ports import StoreError

__all__ = ["EventStream", "Reading", "event_stream_headers", "said_in", "told_in", "watching"]

_log = structlog.get_logger(__name__)
_RETRY_MS = 2000
_KEEP_ALIVE = b": keep-alive\n\n"


class Reading(Protocol):
    """What a response says: batches, empty ones where it is time for a sign of life, None at the end."""

    async def read(self) -> list[Told] | None: ...

    @property
    def turn_end(self) -> TurnEnd | None: ...


def event_stream_headers(format: Format) -> dict[str, str]:
    return {
        "cache-control": "no-cache, no-transform",
        # What nginx and those that do as it does call "do not collect this".
        "x-accel-buffering": "no",
        **format.headers,
    }


async def told_in(format: Format, reading: Reading, following: Following, begun: bytes = b"") -> AsyncGenerator[bytes]:
    """The body of a response, in pieces that are sent at once; the first one comes immediately, with what was `begun`
    of it."""
    yield b": tidegate\nretry: %d\n\n%b" % (_RETRY_MS, begun)
    try:
        while not format.over:
            told = await reading.read()
            if told is None:
                break
            piece = said_in(format, told) if told else _KEEP_ALIVE
            del told  # it may be large, and the client slow
            yield piece
        reason = following.reason if reading.turn_end is None else None
    except StoreError as error:
        _log.warning("a stream was ended", reason=str(error))
        reason = refusal(error)
    last = format.end(reading.turn_end)
    yield last if reason is None else b": %b\n\n%b" % (reason.message.encode(), last)


def said_in(format: Format, told: Sequence[Told]) -> bytes:
    return b"".join(_said(format, one) for one in told)


def _said(format: Format, told: Told) -> bytes:
    frame = told.frame
    if isinstance(frame, Snapshot):
        return format.snapshot(frame, told.data, told.cursor)
    return format.event(frame, told.data, told.cursor)


@asynccontextmanager
async def watching(receive: Callable[[], Awaitable[Message]], gone: Callable[[], None]) -> AsyncGenerator[None]:
    """Call `gone` when the client goes away meanwhile. The request's body must have been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


class EventStream(StreamingResponse):
    """`closing` is left at the end, however that comes."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        headers: Mapping[str, str],
        following: Following,
        closing: AsyncExitStack,
    ) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._pieces = pieces
        self._following = following
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._closing, watching(receive, self._following.hang_up):
            try:
                await self._say(send)
            except TimeoutError:
                # What waits for a client that reads nothing would wait as long as its connection.
                abort_of(scope)()
            except OSError:
                pass  # how ASGI says that the client is gone
            finally:
                await self._pieces.aclose()

    async def _say(self, send: Send) -> None:
        taken = self._following.taken
        await taken(send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}))
        async for piece in self._pieces:
            if piece:
                await taken(_sent(piece, send))
        await taken(send({"type": "http.response.body", "body": b"", "more_body": False}))


async def _sent(piece: bytes, send: Send) -> None:
    """Send the piece by and by. A server takes whatever it is given and waits before it takes more: of a long piece,
    all but the last bytes have gone when this returns."""
    for place in range(0, len(piece), HIGH_WATER):
        await send({"type": "http.response.body", "body": piece[place : place + HIGH_WATER], "more_body": True})
