"""uvicorn in this process with our transport, and a client that can lie."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.transport.port import OUTLET_EXTENSION, Outlet
from gateway.transport.websocket import SocketProtocol

__all__ = ["App", "RawClient", "accepting", "frame", "serving", "until"]

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncGenerator[int]:
    """A server of the application; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    defaults: dict[str, Any] = {"lifespan": "off", "log_config": None, "ws_per_message_deflate": False}
    server = _Server(uvicorn.Config(app, ws=SocketProtocol, **(defaults | options)))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([listener]))
        await server.up.wait()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True


class App:
    """Accepts every socket and keeps what comes. `outlet` and `received` are the last socket's."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.outlet: Outlet
        self.accepted = asyncio.Event()
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads while `gate` is set, and until the disconnect."""
        assert (await receive())["type"] == "websocket.connect"
        self.scope = scope
        self.outlet = scope["extensions"][OUTLET_EXTENSION]
        await send({"type": "websocket.accept"})
        self.accepted.set()
        while True:
            await self.gate.wait()
            message = await receive()
            self.received.put_nowait(message)
            if message["type"] == "websocket.disconnect":
                return

    async def next(self) -> Message:
        async with asyncio.timeout(20):
            return await self.received.get()


async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """A client's frame, with whatever mistake is wanted. The mask is zero, so that the payload stays as it is."""
    first = (0x80 if fin else 0) | rsv | opcode
    mask = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, mask | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    return head + (bytes(4) if masked else b"") + payload


class RawClient:
    """A TCP connection to `port`; 0: `dial` makes it later."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        if self._port:
            await self.dial(self._port)
        return self

    async def dial(self, port: int) -> None:
        # A small buffer, so that a client that does not read is felt soon.
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        self.reader, self.writer = await asyncio.open_connection(sock=connection, limit=1024)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        # Closing uvloop's loop over a transport that is not gone yet may wait for ever.
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def upgrade(self, path: str = "/", *headers: str) -> bytes:
        """Ask for a WebSocket; the head of the response."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *headers,
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        return await self.reader.readuntil(b"\r\n\r\n")

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload."""
        async with asyncio.timeout(20):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """The code of the close frame, which must be the next one, before the end of the connection."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        self.writer.write(frame(CLOSE, payload))
        async with asyncio.timeout(20):
            assert await self.reader.read() == b""
        return struct.unpack("!H", payload[:2])[0]

    async def cut_off(self) -> None:
        """Read until the connection ends, in whatever way."""
        async with asyncio.timeout(20):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                return
