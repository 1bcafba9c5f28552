"""What the fake providers share: an HTTP server that answers each POST with the next reply of its script."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import msgspec

from gateway.testing.script_steps import Cut, Delay, Hold, ScriptedReply, Stall

__all__ = ["ReceivedRequest", "ScriptedServer"]

_MAX_BODY = 64 << 20

R = TypeVar("R", bound=ScriptedReply[Any])


class ReceivedRequest:
    """A request as it came. `ended` is set when its reply is over, `abandoned` with it when the client went away
    before that."""

    def __init__(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.ended = asyncio.Event()
        self.abandoned = False


class ScriptedServer(ABC, Generic[R]):
    """Answers each POST with the next of `replies`, else with what `default` makes of it, else with status 500.

    It listens on a free port of 127.0.0.1, or on `port`; `requests` holds all that came. One event loop, no threads.
    """

    def __init__(self, replies: Sequence[R], default: Callable[[ReceivedRequest], R] | None, port: int) -> None:
        self.replies = deque(replies)
        self.requests: list[ReceivedRequest] = []
        self._default = default
        self._port = port
        self._arrived = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def wait_for_requests(self, count: int) -> None:
        """Returns when `count` requests have come since the start."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, limit=1 << 20)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server:
            await self._server.wait_closed()

    @abstractmethod
    def _no_reply(self) -> R:
        """The reply for a request that the script has none for."""

    @abstractmethod
    def _encode(self, step: Any, request: ReceivedRequest) -> bytes:
        """What a step of the wire's own sends; nothing where it is empty."""

    def _check(self, request: ReceivedRequest) -> R | None:
        """The reply for a request that the real service would refuse; the script does not go on with it."""
        return None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        try:
            # The client may go away at any moment, and the stop of the server cancels.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read(reader)
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        exchange = _Exchange(request, self._reply(request), lambda step: self._encode(step, request), reader, writer)
        try:
            await exchange.run()
        finally:
            request.ended.set()

    def _reply(self, request: ReceivedRequest) -> R:
        if (refusal := self._check(request)) is not None:
            return refusal
        if self.replies:
            return self.replies.popleft()
        return self._default(request) if self._default else self._no_reply()


class _Exchange:
    """One reply being sent, while the connection is watched for the client's going away."""

    def __init__(
        self,
        request: ReceivedRequest,
        reply: ScriptedReply[Any],
        encode: Callable[[Any], bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._request = request
        self._reply = reply
        self._encode = encode
        self._reader = reader
        self._writer = writer
        self._begun = False

    async def run(self) -> None:
        sending = asyncio.create_task(self._send())
        # The connection is not used again, so that all that can come is its end.
        watching = asyncio.create_task(self._reader.read(1))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            self._request.abandoned = not sending.done()
        finally:
            sending.cancel()
            watching.cancel()
            sent, _ = await asyncio.gather(sending, watching, return_exceptions=True)
        if isinstance(sent, Exception):
            raise sent

    async def _send(self) -> None:
        body = self._reply.body
        if body is not None:
            self._head(f"content-length: {len(body)}")
            self._writer.write(body)
            await self._writer.drain()
            return
        for step in self._reply.steps:
            if isinstance(step, Cut):
                await self._writer.drain()
                self._writer.close()
                return
            await self._step(step)
        self._write(b"")
        await self._writer.drain()

    async def _step(self, step: Any) -> None:
        wait = _wait(step)
        if wait is not None:
            await self._writer.drain()
            await wait
        elif data := self._encode(step):
            self._write(data)
            await self._writer.drain()
            # Each step leaves in a write of its own, as a real server's tokens do.
            await asyncio.sleep(0)

    def _write(self, data: bytes) -> None:
        """A chunk of the body (RFC 9112, 7.1), the last one where it is empty. The head leaves with the first."""
        if not self._begun:
            self._begun = True
            self._head("transfer-encoding: chunked")
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _head(self, framing: str) -> None:
        reply = self._reply
        fields = {"content-type": reply.content_type, "connection": "close", **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
        self._writer.write("\r\n".join([*lines, framing, "", ""]).encode("latin-1"))


def _wait(step: Any) -> Awaitable[Any] | None:
    if isinstance(step, Hold):
        return step.until.wait()
    if isinstance(step, Delay):
        return asyncio.sleep(step.seconds)
    if isinstance(step, Stall):
        return asyncio.Event().wait()
    return None


async def _read(reader: asyncio.StreamReader) -> ReceivedRequest:
    """A request with a Content-Length, as the SDKs send it; IncompleteReadError where there is none to come."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if length > _MAX_BODY:
        raise ConnectionError("the body is too large")
    body = await reader.readexactly(length)
    return ReceivedRequest(first.split(" ")[1], headers, msgspec.json.decode(body) if body else {})
