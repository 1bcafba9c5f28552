"""uvicorn's `ws` protocol class: any ASGI application's WebSockets, and an `Outlet` for those that look for it.

`websockets` parses what comes in and keeps the closing handshake; outgoing messages are written as prebuilt bytes.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio.transports import BaseTransport, Transport
from collections.abc import Callable, MutableSet
from enum import Enum, auto
from typing import Any, cast

from starlette.types import ASGIApp, Message, Scope
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as WireProtocol

from gateway.transport.assembler import Assembler
from gateway.transport.inbox import Inbox
from gateway.transport.output import Output
from gateway.transport.port import CLOSE_SECONDS, OUTLET_EXTENSION, Frames, text_frame
from gateway.transport.upgrade import Upgrade, UpgradeRefused, refusal

__all__ = ["SocketProtocol"]

_log = logging.getLogger(__name__)

# Parsed at once: a frame takes 6 bytes at least, so a piece holds 170 messages at most, beyond the inbox's bound.
_PIECE_BYTES = 1024
# A client that is not yet accepted has nothing to say; some say it all the same.
_MAX_EARLY_BYTES = 64 * 1024
_MAX_REASON_BYTES = 123
_PING = b"\x89\x00"


class _State(Enum):
    OPENING = auto()  # the application has not answered the upgrade
    REFUSING = auto()  # it has begun an HTTP response
    OPEN = auto()
    CLOSING = auto()  # our close frame is sent, the peer's has not come
    ENDING = auto()  # nothing is said or heard any more, the connection is about to end
    CLOSED = auto()


class SocketProtocol(asyncio.Protocol):
    """One connection. It implements `Outlet`, and is its own `scope["extensions"]["tidegate.socket"]`."""

    __slots__ = (
        "_app_state",
        "_assembler",
        "_config",
        "_deadline",
        "_inbox",
        "_last_seen",
        "_loop",
        "_on_drain",
        "_output",
        "_reading",
        "_refusal",
        "_server",
        "_state",
        "_transport",
        "_unparsed",
        "_upgrade",
        "_wire",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._state = _State.OPENING
        self._upgrade: Upgrade | None = None
        self._refusal: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None
        self._transport: Transport
        self._output: Output
        self._wire: WireProtocol
        self._inbox = Inbox()
        self._unparsed = b""
        self._assembler = Assembler()
        self._reading = True
        self._on_drain: Callable[[], None] | None = None
        self._last_seen = self._loop.time()
        self._deadline: asyncio.TimerHandle | None = None

    # ---- what the event loop and uvicorn call

    def connection_made(self, transport: BaseTransport) -> None:
        self._transport = cast("Transport", transport)
        self._output = Output(self._transport, self._loop)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._last_seen = self._loop.time()
        if self._state in (_State.OPEN, _State.CLOSING):
            self._unparsed = self._unparsed + data if self._unparsed else data
            self._parse()
        elif self._state is _State.OPENING and self._upgrade is None:
            self._begin(data)
        elif self._state in (_State.OPENING, _State.REFUSING):
            self._unparsed += data
            if len(self._unparsed) > _MAX_EARLY_BYTES:
                self._transport.abort()

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _State.CLOSED
        self._connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self._disconnect(1006, "", drop=False)
        self._output.drained.wake()
        gone, self._on_drain = self._on_drain, None
        self._upgrade = None
        self._unparsed = b""
        if gone is not None:
            gone()

    def pause_writing(self) -> None:
        self._output.pause()

    def resume_writing(self) -> None:
        self._output.resume()
        if self._state is _State.OPEN:
            self._output.late_pong()
            if self._on_drain is not None:
                self._on_drain()

    def shutdown(self) -> None:
        """The server stops."""
        if self._state is _State.OPEN:
            self.close(1012, "")
        elif self._state in (_State.OPENING, _State.REFUSING):
            self._refuse(503, [], b"")

    @property
    def _connections(self) -> MutableSet[object]:
        return cast("MutableSet[object]", self._server.connections)

    # ---- Outlet

    def write(self, frames: Frames) -> None:
        if self._state is _State.OPEN:
            if self._wire.extensions:
                for payload in frames.payloads:
                    self._compress(Opcode.TEXT, payload)
            else:
                self._output.put(frames.wire)

    def write_one(self, payload: bytes) -> None:
        if self._state is _State.OPEN:
            if self._wire.extensions:
                self._compress(Opcode.TEXT, payload)
            else:
                self._output.put(text_frame(payload))

    @property
    def writable(self) -> bool:
        return self._output.flowing and self._state is _State.OPEN

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._on_drain = callback

    def close(self, code: int, reason: str) -> None:
        if self._state is not _State.OPEN:
            return
        self._wire.send_close(code, reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))
        self._output.put(b"".join(self._wire.data_to_send()))
        self._state = _State.CLOSING
        self._expect_end()
        self._disconnect(code, reason, drop=True)
        if not self._reading:
            self._read_on()

    def ping(self) -> None:
        if self._state is _State.OPEN:
            self._output.put(_PING)

    @property
    def last_seen(self) -> float:
        return self._last_seen

    @property
    def unsent_since(self) -> float | None:
        return None if self._state is _State.CLOSED else self._output.unsent_since

    # ---- ASGI

    def _begin(self, request: bytes) -> None:
        """uvicorn hands over the head of the request in one piece."""
        config = self._config
        try:
            self._upgrade = Upgrade(request, config)
        except UpgradeRefused as refused:
            self._end(refused.response)
            return
        scope = self._upgrade.scope(config, self._transport, self._app_state.copy())
        scope["extensions"][OUTLET_EXTENSION] = self
        self._inbox.put({"type": "websocket.connect"}, 0)
        app = cast("ASGIApp", config.loaded_app)  # pyright: ignore[reportUnknownMemberType]
        task = self._loop.create_task(self._run(app, scope))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        code = 1011
        try:
            await app(scope, self._receive, self._send)
            code = 1000
        except ClientDisconnected:
            code = 1000
        except asyncio.CancelledError:
            code = 1012
            raise
        except Exception:  # noqa: BLE001 - the boundary to the application: its failure ends this connection only
            _log.exception("the ASGI application failed")
        finally:
            if self._state in (_State.OPENING, _State.REFUSING):
                self._refuse(500, [], b"Internal Server Error")
            self.close(code, "")

    async def _receive(self) -> Message:
        message = await self._inbox.take()
        if not self._reading and self._inbox.has_room and self._state is _State.OPEN:
            self._read_on()
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._state is _State.OPENING and self._upgrade is not None:
            self._answer(self._upgrade, kind, message)
        elif self._state is _State.REFUSING:
            self._continue_refusal(kind, message)
        elif self._state is _State.OPEN:
            await self._send_open(kind, message)
        else:
            raise ClientDisconnected

    def _answer(self, upgrade: Upgrade, kind: str, message: Message) -> None:
        if kind == "websocket.accept":
            self._accept(upgrade, message)
        elif kind == "websocket.close":
            self._refuse(403, [], b"")
        elif kind == "websocket.http.response.start":
            self._refusal = (message["status"], list(message.get("headers", ())), b"")
            self._state = _State.REFUSING
        else:
            raise RuntimeError(f"an upgrade is not answered by {kind}")

    def _accept(self, upgrade: Upgrade, message: Message) -> None:
        headers = [*self._server.default_headers, *message.get("headers", ())]
        response, self._wire = upgrade.accept(headers, message.get("subprotocol"))
        self._upgrade = None
        self._state = _State.OPEN
        self._output.put(response)
        if self._unparsed:
            self._parse()

    def _continue_refusal(self, kind: str, message: Message) -> None:
        if kind != "websocket.http.response.body" or self._refusal is None:
            raise RuntimeError(f"a refusal is not continued by {kind}")
        status, headers, body = self._refusal
        body += message.get("body", b"")
        if message.get("more_body", False):
            self._refusal = (status, headers, body)
        else:
            self._refuse(status, headers, body)

    async def _send_open(self, kind: str, message: Message) -> None:
        if kind == "websocket.close":
            self.close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.send":
            while not self._output.flowing and self._state is _State.OPEN:
                await self._output.drained.wait()
            if self._state is not _State.OPEN:
                raise ClientDisconnected
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._compress(Opcode.BINARY, data)
            elif text is not None:
                self.write_one(text.encode())
        else:
            raise RuntimeError(f"an open socket does not know {kind}")

    # ---- reading

    def _parse(self) -> None:
        data, self._unparsed = self._unparsed, b""
        place = 0
        while place < len(data) and self._state in (_State.OPEN, _State.CLOSING) and not self._inbox.full:
            piece = data[place : place + _PIECE_BYTES]
            place += len(piece)
            self._wire.receive_data(piece)
            for event in self._wire.events_received():
                if self._state is _State.OPEN and isinstance(event, Frame):
                    self._take_in(event)
            self._answer_peer(self._wire.data_to_send())
        if self._state is _State.OPEN and self._inbox.full:
            self._unparsed = data[place:]
            if self._reading:
                self._reading = False
                self._transport.pause_reading()

    def _take_in(self, frame: Frame) -> None:
        try:
            whole = self._assembler.take(frame)
        except UnicodeDecodeError:
            if self._wire.close_rcvd is None:
                self._wire.fail(1007, "invalid UTF-8")
                self._disconnect(1007, "", drop=False)
            return
        if whole is not None:
            self._inbox.put(*whole)

    def _answer_peer(self, output: list[bytes]) -> None:
        """What the wire protocol says by itself: pongs, and at the end a close frame and the mark of the end, b""."""
        wire = self._wire
        if not output:
            return
        if output[-1] != b"":
            if self._state is _State.OPEN:
                self._output.pong(output)
        elif wire.close_rcvd is not None and wire.parser_exc is None:
            self._disconnect(wire.close_rcvd.code, wire.close_rcvd.reason, drop=False)
            self._end(b"".join(output))
        else:
            self._disconnect(wire.close_sent.code if wire.close_sent else 1006, "", drop=False)
            self._end_failed(b"".join(output))

    def _read_on(self) -> None:
        self._parse()
        if self._state in (_State.OPEN, _State.CLOSING) and not self._inbox.full:
            self._reading = True
            self._transport.resume_reading()

    # ---- writing

    def _compress(self, kind: Opcode, payload: bytes) -> None:
        if kind is Opcode.TEXT:
            self._wire.send_text(payload)
        else:
            self._wire.send_binary(payload)
        self._output.put(b"".join(self._wire.data_to_send()))

    # ---- ending

    def _disconnect(self, code: int, reason: str, *, drop: bool) -> None:
        self._inbox.end({"type": "websocket.disconnect", "code": code, "reason": reason}, drop=drop)
        self._output.drained.wake()

    def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._disconnect(1006, "", drop=True)
        self._end(refusal(status, [*self._server.default_headers, *headers], body))

    def _end(self, last: bytes) -> None:
        """Say the last bytes and close the connection."""
        self._state = _State.ENDING
        self._upgrade = None
        self._output.put(last)
        self._expect_end()
        self._transport.close()

    def _end_failed(self, last: bytes) -> None:
        """Say the last bytes, and go on reading: closing on unread input would reset the connection, and the peer
        would not see why."""
        if not self._transport.can_write_eof():
            self._end(last)
            return
        self._state = _State.ENDING
        self._output.put(last)
        self._expect_end()
        self._transport.write_eof()
        self._transport.resume_reading()

    def _expect_end(self) -> None:
        if self._deadline is None:
            self._deadline = self._loop.call_later(CLOSE_SECONDS, self._transport.abort)
