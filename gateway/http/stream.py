"""`GET /v1/contexts/{id}/stream`: a context followed without a socket (docs/protocol.md, section 6)."""

from __future__ import annotations

from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.contexts import Contexts
from gateway.http.event_stream import EventStream, event_stream_headers, said_in, told_in
from gateway.http.formats import format_of
from gateway.http.replies import Guard
from gateway.http.requests import cursor_of
from gateway.http.streams import Streams

__all__ = ["stream_routes"]


def stream_routes(guard: Guard, streams: Streams, contexts: Contexts) -> list[Route]:
    async def follow(request: Request, principal: Principal) -> Response:
        format, cursor = format_of(request), cursor_of(request)
        key = contexts.key(principal, request.path_params["id"])
        headers = event_stream_headers(format)
        if request.method == "HEAD":
            await contexts.read(key)
            return Response(media_type="text/event-stream", headers=headers)
        async with AsyncExitStack() as stack:
            following = await stack.enter_async_context(streams.admit(principal))
            await following.open(key, cursor)
            # Without a cursor a snapshot comes at once, and tells whether there is anything to say.
            begun = said_in(format, await following.read() or ()) if cursor is None else b""
            if format.over:
                return Response(status_code=204)
            return EventStream(told_in(format, following, following, begun), headers, following, stack.pop_all())

    return [Route("/v1/contexts/{id}/stream", guard(follow), methods=["GET"])]
