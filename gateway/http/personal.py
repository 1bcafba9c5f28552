"""What a principal may do with all that is its own: take it along, delete it (docs/protocol.md, section 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.auth.principal import Principal
from gateway.contexts import Contexts
from gateway.erasure import Erasure
from gateway.export import Exports
from gateway.http.replies import Guard, json_reply
from gateway.transport.abort import abort_of
from protocol.errors import ProtocolError

__all__ = ["personal_routes"]

_log = structlog.get_logger(__name__)
_STALLED_SECONDS = 60.0
_RETRY_SECONDS = 5.0


class _Download(StreamingResponse):
    """A body that a client has to go on reading. One that takes nothing for a minute is cut off, and so misses the
    document's end; `done` is called however it ends."""

    def __init__(self, pieces: AsyncGenerator[bytes], name: str, done: Callable[[], None]) -> None:
        disposition = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        self._pieces = pieces
        self._done = done
        self._abort = abort_of({})
        super().__init__(self._body(), media_type="application/json", headers=disposition)

    async def _body(self) -> AsyncGenerator[bytes]:
        async for piece in self._pieces:
            yield piece
        self._done()  # before the client knows of the end, and may ask again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._abort = abort_of(scope)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()
            await self._pieces.aclose()

    async def stream_response(self, send: Send) -> None:
        async def send_soon(message: dict[str, object]) -> None:
            async with asyncio.timeout(_STALLED_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_soon)  # type: ignore[arg-type]
        except TimeoutError:
            _log.info("an export was cut off: its client reads nothing")
            self._abort()


def personal_routes(guard: Guard, contexts: Contexts, erasure: Erasure, exports: Exports) -> list[Route]:
    exporting: dict[str, object] = {}

    async def export(request: Request, principal: Principal) -> Response:
        owner = principal.owner
        if owner in exporting:
            raise ProtocolError("rate_limited", "one export at a time", retry_after=_RETRY_SECONDS)
        exporting[owner] = this = object()

        def done() -> None:
            # It is said twice of each export, and the owner may have begun the next one in between.
            if exporting.get(owner) is this:
                del exporting[owner]

        return _Download(exports.document(principal), "tidegate-export.json", done)

    async def delete_one(request: Request, principal: Principal) -> Response:
        await erasure.context(contexts.key(principal, request.path_params["id"]))
        return Response(status_code=204)

    async def delete_all(request: Request, principal: Principal) -> Response:
        if request.query_params.get("confirm") != "all":
            raise ProtocolError("invalid_frame", "?confirm=all deletes every context for good", path="confirm")
        return json_reply({"deleted": await erasure.everything(principal)})

    return [
        Route("/v1/export", guard(export), methods=["GET"]),
        Route("/v1/contexts", guard(delete_all), methods=["DELETE"]),
        Route("/v1/contexts/{id}", guard(delete_one), methods=["DELETE"]),
    ]
