"""`/v1/contexts`: a principal's conversations and their history (docs/protocol.md, section 6)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.context_settings import ContextSettings
from gateway.contexts import Contexts, context_json
from gateway.http.replies import Guard, body, json_bytes, json_reply, page_size
from protocol.errors import ProtocolError
from protocol.frames import Id

__all__ = ["context_routes"]

Title = Annotated[str, msgspec.Meta(max_length=512)]


class NewContext(msgspec.Struct, frozen=True):
    id: Id | None = None
    title: Title | None = None
    metadata: dict[str, Any] | None = None
    settings: ContextSettings | None = None


class ContextChange(msgspec.Struct, frozen=True):
    title: Title | None = None
    metadata: dict[str, Any] | None = None
    settings: ContextSettings | None = None
    pinned: Annotated[list[Id], msgspec.Meta(max_length=64)] | None = None


def context_routes(guard: Guard, contexts: Contexts, max_bytes: int) -> list[Route]:
    async def page(request: Request, principal: Principal) -> Response:
        after = request.query_params.get("after")
        records, following = await contexts.page(principal, after, page_size(request, 50))
        return json_reply({"contexts": [context_json(record) for record in records], "next": following})

    async def create(request: Request, principal: Principal) -> Response:
        wanted = await body(request, NewContext, max_bytes)
        record, created = await contexts.create(principal, wanted.id, wanted.title, wanted.metadata, wanted.settings)
        return json_reply(context_json(record), 201 if created else 200)

    async def read(request: Request, principal: Principal) -> Response:
        return json_reply(context_json(await contexts.read(contexts.key(principal, request.path_params["id"]))))

    async def change(request: Request, principal: Principal) -> Response:
        wanted = await body(request, ContextChange, max_bytes)
        key = contexts.key(principal, request.path_params["id"])
        changed = await contexts.update(key, wanted.title, wanted.metadata, wanted.settings, wanted.pinned)
        return json_reply(context_json(changed))

    async def events(request: Request, principal: Principal) -> Response:
        key = contexts.key(principal, request.path_params["id"])
        found = await contexts.events(key, _before(request), page_size(request, 100))
        following = msgspec.json.encode(found.next)
        return json_bytes(b'{"events":[%b],"next":%b}' % (b",".join(found.events), following))

    one = "/v1/contexts/{id}"
    return [
        Route("/v1/contexts", guard(page), methods=["GET"]),
        Route("/v1/contexts", guard(create), methods=["POST"]),
        Route(one, guard(read), methods=["GET"]),
        Route(one, guard(change), methods=["PATCH"]),
        Route(f"{one}/events", guard(events), methods=["GET"]),
    ]


def _before(request: Request) -> int | None:
    text = request.query_params.get("before")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ProtocolError("invalid_frame", "before is a seq", path="before")
    return int(text)
