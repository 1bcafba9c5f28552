"""A server for tests of the client that speaks the wire over real sockets, and does what no gateway should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from protocol.codec import decode_client, encode
from protocol.frames import Ack, ClientFrame, Hello, SendMessage, ServerFrame
from tests.gateway.client_rig import PureGateway

__all__ = ["FaultyServer", "running"]

_WORDS = 4


class FaultyServer:
    """Answers every message with a turn of four words.

    `cuts` says for each connection after how many written frames it is cut without a word; then none is. `forget`
    makes every reconnect need a snapshot. `script` may answer a frame in the gateway's place; None leaves it to it.
    `status` refuses upgrades.
    """

    def __init__(
        self,
        *,
        cuts: list[int] | None = None,
        forget: bool = False,
        script: Callable[[ClientFrame, ServerConnection], list[ServerFrame] | None] | None = None,
        status: HTTPStatus | None = None,
        mangle: Callable[[list[ServerFrame]], list[ServerFrame]] = lambda frames: frames,
    ) -> None:
        self.gateway = PureGateway()
        self.received: list[ClientFrame] = []
        self.written: list[ServerFrame] = []
        self.sockets: list[ServerConnection] = []
        self.arrived = asyncio.Condition()
        self.url = ""
        self._cuts = list(cuts or ())
        self._forget = forget
        self._script = script
        self._status = status
        self._mangle = mangle

    @property
    def hellos(self) -> list[Hello]:
        return [frame for frame in self.received if isinstance(frame, Hello)]

    async def wait(self, done: Callable[[], bool]) -> None:
        """Wait until what arrived is enough."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(done)

    async def closed(self) -> int | None:
        """The code with which the newest socket was closed."""
        async with asyncio.timeout(10):
            await self.sockets[-1].wait_closed()
        return self.sockets[-1].close_code

    async def write(self, *frames: ServerFrame) -> None:
        for frame in frames:
            await self.sockets[-1].send(encode(frame), text=True)

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(self._status, "no") if self._status is not None else None

    async def serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        budget = self._cuts.pop(0) if self._cuts else None
        self.gateway.connect()
        if self._forget:
            self.gateway.bases = {key: len(log) for key, log in self.gateway.logs.items()}
        try:
            async for data in socket:
                frame = decode_client(data)
                for answer in self._mangle(self._answers(frame, socket)):
                    if budget == 0:
                        socket.transport.abort()
                        return
                    budget = budget - 1 if budget is not None else None
                    self.written.append(answer)
                    await socket.send(encode(answer), text=True)
                async with self.arrived:
                    self.received.append(frame)
                    self.arrived.notify_all()
        except ConnectionClosed:
            return

    def _answers(self, frame: ClientFrame, socket: ServerConnection) -> list[ServerFrame]:
        if self._script is not None:
            scripted = self._script(frame, socket)
            if scripted is not None:
                return scripted
        frames = self.gateway.frame(frame)
        if isinstance(frame, SendMessage) and frame.respond:
            ack = frames[0]
            assert isinstance(ack, Ack)
            if not ack.duplicate and ack.context_id is not None:
                frames += self.gateway.speak(ack.context_id, frame.id, _WORDS)
        return frames


@asynccontextmanager
async def running(server: FaultyServer) -> AsyncGenerator[FaultyServer]:
    subprotocols = [Subprotocol("tidegate.v1.json")]
    listening: Server
    async with serve(
        server.serve, "127.0.0.1", 0, subprotocols=subprotocols, process_request=server.refuse, compression=None
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        yield server
