"""A client that speaks the wire protocol and nothing else: what a user's own code would be, without our help."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

__all__ = ["Frame", "Wire"]

Frame = dict[str, Any]
DURABLE = {"message", "tool_call", "tool_approval", "tool_response", "turn_end", "context"}


class Wire:
    """One socket. `frames` are all that came, in order, and `texts` the same as it came; `wait` looks at those and at
    what comes."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        self._url = url
        self._options: dict[str, Any] = {"max_size": None, "compression": None, "ping_interval": None, **options}
        if key is not None:
            self._options["additional_headers"] = {"X-API-Key": key}
        self.frames: list[Frame] = []
        self.texts: list[str | bytes] = []
        self.closed: int | None = None
        self._news = asyncio.Condition()
        self._socket: ClientConnection
        self._reader: asyncio.Task[None]
        self._ids = 0

    async def __aenter__(self) -> Self:
        self._socket = await connect(self._url, **self._options)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                async with self._news:
                    self.frames.append(json.loads(text))
                    self.texts.append(text)
                    self._news.notify_all()
        except ConnectionClosed:
            pass
        async with self._news:
            self.closed = self._socket.close_code
            self._news.notify_all()

    @property
    def port(self) -> int:
        """Our end of the connection."""
        return self._socket.transport.get_extra_info("sockname")[1]

    def abort(self) -> None:
        """Cut the connection as a network would: without a word."""
        self._socket.transport.abort()

    def pause_reading(self) -> None:
        """Read nothing, and so answer no ping."""
        self._socket.transport.pause_reading()

    def resume_reading(self) -> None:
        self._socket.transport.resume_reading()

    def write_bytes(self, data: bytes) -> None:
        """Put bytes on the wire past all that makes frames."""
        self._socket.transport.write(data)

    async def send(self, frame: Frame) -> None:
        await self._socket.send(json.dumps(frame))

    async def send_raw(self, data: str | bytes) -> None:
        await self._socket.send(data)

    async def wait(self, wanted: Callable[[Frame], bool], seconds: float = 20) -> Frame:
        """The first frame, of those that came and come, that is wanted."""
        place = 0
        async with asyncio.timeout(seconds), self._news:
            while True:
                while place < len(self.frames):
                    if wanted(self.frames[place]):
                        return self.frames[place]
                    place += 1
                if self.closed is not None:
                    raise ConnectionError(f"closed with {self.closed}: {self.frames[-3:]}")
                await self._news.wait()

    async def wait_closed(self, seconds: float = 20) -> int:
        async with asyncio.timeout(seconds), self._news:
            while self.closed is None:
                await self._news.wait()
            return self.closed

    async def hello(self, **fields: Any) -> Frame:
        await self.send({"type": "hello", **fields})
        return await self.wait(lambda frame: frame["type"] == "ready")

    async def ask(self, frame_type: str, **fields: Any) -> Frame:
        """Send a frame with an id of its own; its `ack`, `error`, `pong` or `subscribed`."""
        self._ids += 1
        frame_id = fields.pop("id", None) or f"c{self._ids}"
        seen = len(self.frames)
        await self.send({"type": frame_type, "id": frame_id, **fields})
        answers = {"ack", "error", "pong", "subscribed"}

        def wanted(frame: Frame) -> bool:
            return frame.get("id") == frame_id and frame["type"] in answers and frame in self.frames[seen:]

        return await self.wait(wanted)

    async def turn(self, content: str, context_id: str, **fields: Any) -> list[Frame]:
        """Send a message and wait for the end of its turn; the context's events since."""
        seen = len(self.frames)
        ack = await self.ask("message", content=content, context_id=context_id, **fields)
        assert ack["type"] == "ack", ack
        await self.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == ack["id"])
        return [frame for frame in self.frames[seen:] if frame.get("context_id") == context_id]

    def events(self, context_id: str) -> list[Frame]:
        """The context's events that came as such, in the order in which they came."""
        live = {"message_start", "delta", "tool_progress"}
        return [
            frame
            for frame in self.frames
            if frame.get("context_id") == context_id and frame["type"] in DURABLE | live and "seq" in frame
        ]


def check_contiguous(events: list[Frame]) -> None:
    """Each event follows the one before (protocol.md, Contiguity)."""
    for one, other in pairwise(events):
        assert other.get("first", other["seq"]) == one["seq"] + 1, (one, other)


def spoken(events: list[Frame], message_id: str) -> str:
    """The text that the deltas of the message's last attempt make."""
    text = ""
    for event in events:
        if event["type"] == "message_start" and event["id"] == message_id:
            text = ""
        elif event["type"] == "delta" and event["message_id"] == message_id and event.get("channel", "text") == "text":
            text += event["text"]
    return text
