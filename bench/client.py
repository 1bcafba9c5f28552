"""A WebSocket client that costs next to nothing, so that the generator is not what is measured."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
from asyncio.transports import BaseTransport, Transport
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

__all__ = ["Client", "Closed", "Frame", "Partial", "Target", "dial"]

_TEXT, _CLOSE, _PING = 1, 8, 9
_MASK = bytes(4)
_encode = msgspec.json.Encoder().encode

OnFrame = Callable[["Frame", float], None]


class Closed(Exception):
    """The server closed the connection, or refused it; the message says how."""


class Target(Struct, frozen=True, kw_only=True):
    """Where to connect to, such as ws://127.0.0.1:8000/v1/ws, and the credentials: a key, a ticket or a token."""

    url: str
    key: str | None = None
    ticket: str | None = None
    token: str | None = None


class Partial(Struct):
    """A message that is being written, in a snapshot."""

    message_id: str
    text: str = ""


class Frame(Struct):
    """The fields of a server's frame that the load scripts look at (protocol.md, sections 2 and 3)."""

    type: str
    id: str | None = None
    seq: int | None = None
    first: int | None = None
    text: str | None = None
    role: str | None = None
    status: str | None = None
    message_id: str | None = None
    content: Any = None
    code: str | None = None
    message: Any = None
    session_id: str | None = None
    resumed: bool = False
    instance: str | None = None
    epoch: str | None = None
    events: list[Frame] = []
    partial: list[Partial] = []


_decode = msgspec.json.Decoder(Frame).decode


class Client(asyncio.Protocol):
    """One connection. Frames go to `on_frame` with their time of arrival, in seconds of `time.perf_counter`.

    Its mask is zero, which a server can't tell from a random one, and which costs nothing. It trusts the server to send
    whole, unmasked text messages, as a gateway does. `connected` is done when the upgrade is accepted,
    `closed` when the connection is over, with the close code, None where there was none.
    """

    def __init__(self, request: bytes, on_frame: OnFrame) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self.on_frame = on_frame
        self._upgraded = False
        self._buffer: bytes = b""
        self._code: int | None = None
        self._transport: Transport
        self.frames = 0
        self.bytes = 0
        self.connected: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int | None] = loop.create_future()

    def connection_made(self, transport: BaseTransport) -> None:
        self._transport = cast("Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.connected.done():
            self.connected.set_exception(Closed("the connection was lost before the upgrade"))
        if not self.closed.done():
            self.closed.set_result(self._code)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._buffer:
            data = self._buffer + data
        self.bytes += len(data) - len(self._buffer)
        place = 0 if self._upgraded else self._upgrade(data)
        while (end := self._take(data, place, now)) is not None:
            place = end
        self._buffer = data[place:]

    def send(self, **frame: object) -> None:
        """Send a frame of these fields."""
        self._write(_TEXT, _encode({name: value for name, value in frame.items() if value is not None}))

    def close(self) -> None:
        self._write(_CLOSE, struct.pack("!H", 1000))

    def abort(self) -> None:
        self._transport.abort()

    def _upgrade(self, data: bytes) -> int:
        """Where the frames begin in `data`; 0 while they don't."""
        end = data.find(b"\r\n\r\n")
        if end < 0 or self.connected.done():
            return 0
        status = data[: data.find(b"\r\n")]
        if not status.startswith(b"HTTP/1.1 101"):
            self.connected.set_exception(Closed(f"the upgrade was refused: {status.decode('latin-1')}"))
            self._transport.close()
            return 0
        self._upgraded = True
        self.connected.set_result(None)
        return end + 4

    def _take(self, data: bytes, place: int, now: float) -> int | None:
        """Handle the frame at `place`; where it ends, or None if it is not all there."""
        if not self._upgraded or len(data) < place + 2:
            return None
        opcode, length, start = data[place] & 15, data[place + 1], place + 2
        if length == 126:
            if len(data) < start + 2:
                return None
            length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif length == 127:
            if len(data) < start + 8:
                return None
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = start + length
        if len(data) < end:
            return None
        if opcode == _TEXT:
            self.frames += 1
            self.on_frame(_decode(data[start:end]), now)
        else:
            self._control(opcode, data[start:end])
        return end

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._write(10, payload)
        elif opcode == _CLOSE:
            self._code = int.from_bytes(payload[:2], "big") if payload else None
            self._write(_CLOSE, payload)

    def _write(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes((0x80 | opcode, 0x80 | length))
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        self._transport.write(head + _MASK + payload)


async def dial(target: Target, on_frame: OnFrame) -> Client:
    """Open a WebSocket. Raises Closed, or OSError where nobody listens."""
    url = urlsplit(target.url)
    if url.scheme not in ("ws", "wss") or url.hostname is None:
        raise Closed(f"{target.url} is no WebSocket URL")
    port = url.port or (443 if url.scheme == "wss" else 80)
    path = url.path or "/"
    query = "&".join(filter(None, (url.query, urlencode({"ticket": target.ticket}) if target.ticket else "")))
    lines = [
        f"GET {path}{'?' + query if query else ''} HTTP/1.1",
        f"Host: {url.netloc.rpartition('@')[2]}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: tidegate.v1.json",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
    ]
    if target.key is not None:
        lines.append(f"X-API-Key: {target.key}")
    request = "\r\n".join([*lines, "", ""]).encode()
    loop = asyncio.get_running_loop()
    tls = True if url.scheme == "wss" else None
    _, client = await loop.create_connection(lambda: Client(request, on_frame), url.hostname, port, ssl=tls)
    try:
        await client.connected
    except BaseException:
        client.abort()
        raise
    return client
