"""The way in for sockets: origin, credentials and limits are checked before anything is said (protocol.md, 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from starlette.requests import HTTPConnection

from gateway.auth.authenticator import Authenticator
from gateway.auth.origin import origin_allowed
from gateway.auth.principal import Principal
from gateway.connection import Connection, Services
from gateway.transport.fallback import AsgiOutlet
from gateway.transport.port import OUTLET_EXTENSION, Outlet
from protocol.codec import encode, error_frame
from protocol.errors import CLOSE_CODES, ERRORS, ProtocolError

__all__ = ["SUBPROTOCOL", "Door", "refuse_upgrade"]

SUBPROTOCOL = "tidegate.v1.json"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Door:
    """The ASGI application of `/v1/ws`. It knows all open connections, so that they can be drained."""

    def __init__(self, services: Services, authenticator: Authenticator, origins: Sequence[str]) -> None:
        self._services = services
        self._authenticator = authenticator
        self._origins = origins
        self._connections: set[Connection] = set()
        self._all_gone = asyncio.Event()
        self._draining = False

    def __len__(self) -> int:
        return len(self._connections)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        asked = HTTPConnection(scope)
        late: ProtocolError | None = None
        principal: Principal | None = None
        try:
            self._check_origin(asked)
            principal = await self._authenticator.from_connection(asked)
        except ProtocolError as error:
            # A browser can't read a refused upgrade, so what came in the URL is answered after it.
            if error.path is None or not error.path.startswith("query."):
                await refuse_upgrade(scope, send, error)
                return
            late = error
        offered = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": offered})
        outlet = scope.get("extensions", {}).get(OUTLET_EXTENSION)
        if outlet is not None:
            await self.serve(outlet, receive, principal, late)
            return
        async with asyncio.TaskGroup() as group:
            plain = AsgiOutlet(send)
            writer = group.create_task(plain.run())
            await self.serve(plain, receive, principal, late)
            writer.cancel()

    async def serve(
        self, outlet: Outlet, receive: Receive, principal: Principal | None, late: ProtocolError | None = None
    ) -> None:
        """Serve a client that was let in until it is gone; with `late`, tell it why it was not."""
        if late is not None or self._draining:
            if late is not None:
                outlet.write_one(encode(error_frame(late)))
            code = 1012 if late is None else 4401
            outlet.close(code, CLOSE_CODES[code].reason)
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        connection = Connection(self._services, self._authenticator, outlet, principal)
        self._connections.add(connection)
        try:
            await connection.run(receive)
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._all_gone.set()

    def _check_origin(self, asked: HTTPConnection) -> None:
        headers, scheme = asked.headers, asked.scope.get("scheme", "ws")
        if not origin_allowed(headers.get("origin"), headers.get("host", ""), scheme, self._origins):
            raise ProtocolError("forbidden", "this origin is not allowed", path="headers.origin")

    # ---- draining

    def goaway(self, retry_after: float) -> None:
        """Accept nobody any more, and tell everybody that the instance is about to close."""
        self._draining = True
        for connection in tuple(self._connections):
            connection.drain(retry_after)

    async def close(self, code: int, seconds: float) -> None:
        """Close every socket and wait so long for their ends."""
        self._all_gone.clear()
        for connection in tuple(self._connections):
            connection.close(code)
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_gone.wait()


async def refuse_upgrade(scope: Message, send: Send, error: ProtocolError) -> None:
    """Answer an upgrade with the status of section 2, or with 403 where the server can't."""
    status = ERRORS[error.code].http
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    frame = error_frame(error)
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b'{"error":%b}' % encode(frame)})
