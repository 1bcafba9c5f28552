"""A scripted server that speaks the wire of OpenAI's chat completions over real HTTP, for tests.

```python
async with FakeOpenAI() as server:
    server.replies.append(Reply.text("Hello, world"))
    server.replies.append(Reply(steps=[Text("Hel"), Cut()]))
    model = OpenAIModel("m", "gpt", "key", server.base_url)
```
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from gateway.testing.openai_script import (
    CallFragment,
    Chunk,
    Cut,
    Delay,
    Done,
    Finish,
    Hold,
    Raw,
    Reasoning,
    Reply,
    Stall,
    Step,
    Text,
    Usage,
)

__all__ = ["FakeOpenAI", "ReceivedRequest"]

_MAX_BODY = 64 << 20


class ReceivedRequest:
    """A request as it came. `ended` is set when its reply is over, `abandoned` with it when the client went away
    before that."""

    def __init__(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.ended = asyncio.Event()
        self.abandoned = False


class FakeOpenAI:
    """Answers each POST with the next of `replies`, else with what `default` makes of it, else with status 500.

    It listens on a free port of 127.0.0.1, or on `port`; `requests` holds all that came. One event loop, no threads.
    """

    def __init__(
        self, *replies: Reply, default: Callable[[ReceivedRequest], Reply] | None = None, port: int = 0
    ) -> None:
        self.replies = deque(replies)
        self.requests: list[ReceivedRequest] = []
        self._default = default
        self._port = port
        self._arrived = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

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
        if self.replies:
            reply = self.replies.popleft()
        elif self._default:
            reply = self._default(request)
        else:
            reply = Reply.failure(500, "no_reply", "the script of this server has no reply left")
        exchange = _Exchange(request, reply, reader, writer)
        try:
            await exchange.run()
        finally:
            request.ended.set()


class _Exchange:
    """One reply being sent, while the connection is watched for the client's going away."""

    def __init__(
        self, request: ReceivedRequest, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._request = request
        self._reply = reply
        self._reader = reader
        self._writer = writer
        self._begun = False
        self._id = f"chatcmpl-{id(request):x}"

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

    async def _step(self, step: Step) -> None:
        wait = _wait(step)
        if wait is not None:
            await self._writer.drain()
            await wait
        elif not isinstance(step, Usage) or self._request.body.get("stream_options", {}).get("include_usage"):
            self._write(_body(step, {"id": self._id, "model": str(self._request.body.get("model"))}))
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


def _wait(step: Step) -> Awaitable[Any] | None:
    if isinstance(step, Hold):
        return step.until.wait()
    if isinstance(step, Delay):
        return asyncio.sleep(step.seconds)
    if isinstance(step, Stall):
        return asyncio.Event().wait()
    return None


def _body(step: Step, base: dict[str, Any]) -> bytes:
    if isinstance(step, Raw):
        return step.data
    if isinstance(step, Done):
        return b"data: [DONE]\n\n"
    value = step.value if isinstance(step, Chunk) else {**base, **_chunk(step)}
    return b"data: %b\n\n" % msgspec.json.encode(value)


def _chunk(step: Step) -> dict[str, Any]:
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "created": 1_700_000_000, "choices": []}
    if isinstance(step, Usage):
        usage: dict[str, Any] = {
            "prompt_tokens": step.prompt_tokens,
            "completion_tokens": step.completion_tokens,
            "total_tokens": step.prompt_tokens + step.completion_tokens,
        }
        if step.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": step.cached_tokens}
        if step.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": step.reasoning_tokens}
        return {**chunk, "usage": usage}
    delta: dict[str, Any] = {}
    if isinstance(step, Text):
        delta = {"content": step.text}
    elif isinstance(step, Reasoning):
        delta = {step.field: step.text}
    elif isinstance(step, CallFragment):
        delta = {"tool_calls": [_fragment(step)]}
    reason = step.reason if isinstance(step, Finish) else None
    chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return chunk


def _fragment(step: CallFragment) -> dict[str, Any]:
    function = {"name": step.name, "arguments": step.arguments}
    fragment = {
        "index": step.index,
        "id": step.id,
        "type": "function" if step.name else None,
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in fragment.items() if value is not None}


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
