"""What stands before a fake MCP server on HTTP: it keeps to one era of the protocol, refuses, breaks connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Literal

import msgspec
import uvicorn
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from msgspec import Struct
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CUT", "Front", "Refusal", "serving"]

CUT: Final = "fake_mcp.cut"
"""In the scope of a request: a function that breaks its connection."""

_VERSION: Final = "mcp-protocol-version"
_STREAM: Final = (b"content-type", b"text/event-stream")


class Refusal(Struct, frozen=True):
    """An HTTP response in the server's place."""

    status: int
    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    body: bytes = b""


class Front:
    """An ASGI app before another one. `close` cuts what still runs."""

    def __init__(
        self, app: ASGIApp, era: Literal["both", "modern", "legacy"], refuse: Callable[[dict[str, str]], Refusal | None]
    ) -> None:
        self._app = app
        self._era = era
        self._refuse = refuse
        self._cuts: set[asyncio.Event] = set()

    def close(self) -> None:
        for cut in self._cuts:
            cut.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refuse(headers) or self._other_era(headers)
        if refusal is not None:
            await Response(refusal.body, refusal.status, refusal.headers)(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    def _other_era(self, headers: dict[str, str]) -> Refusal | None:
        version = headers.get(_VERSION)
        modern = version in MODERN_PROTOCOL_VERSIONS
        if self._era == "both" or modern == (self._era == "modern"):
            return None
        supported = MODERN_PROTOCOL_VERSIONS if self._era == "modern" else HANDSHAKE_PROTOCOL_VERSIONS
        error: dict[str, Any] = {
            "code": UNSUPPORTED_PROTOCOL_VERSION,
            "message": f"Unsupported protocol version: {version}",
            "data": {"supported": list(supported), "requested": version or ""},
        }
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": error})
        return Refusal(400, {"content-type": "application/json"}, body)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer, unless its connection is cut before it is over."""
        cut = asyncio.Event()
        self._cuts.add(cut)
        scope[CUT] = cut.set
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        serving = asyncio.ensure_future(self._app(scope, receive, watched))
        waiting = asyncio.ensure_future(cut.wait())
        try:
            await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            elif not begun:
                # The server closes a connection whose response was begun and is not finished.
                await send({"type": "http.response.start", "status": 200, "headers": [_STREAM]})
        finally:
            self._cuts.discard(cut)
            for task in (serving, waiting):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, port: int) -> AsyncGenerator[str]:
    """A uvicorn of the app on 127.0.0.1, port 0 being a free one; the origin of its URLs."""
    # Of a socket that does not say it is TCP asyncio does not turn Nagle's algorithm off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_config=None, ws="none", lifespan="on", timeout_graceful_shutdown=1)
    server = _Server(config)
    # Not in a task group, which would cancel it, in the middle of its work, where whoever uses it fails.
    running = asyncio.create_task(server.serve([listener]))
    try:
        await server.up.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        try:
            await running
        finally:
            listener.close()
