"""`/v1/search`: what was said in one's own contexts (docs/protocol.md, section 6)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.contexts import moment
from gateway.http.replies import Guard, json_reply, page_size
from protocol.errors import ProtocolError
from stores.ports import SearchStore
from stores.records import SearchHit

__all__ = ["search_routes"]

_LARGEST_PAGE = 50
# Looks at the store a request: between two of them whoever else reads has its turn.
_ROUNDS = 20


def search_routes(guard: Guard, store: SearchStore) -> list[Route]:
    async def search(request: Request, principal: Principal) -> Response:
        query = request.query_params.get("q")
        if query is None:
            raise ProtocolError("invalid_frame", "q is what to look for", path="q")
        limit = min(page_size(request, 20), _LARGEST_PAGE)
        after = request.query_params.get("after")
        hits: list[SearchHit] = []
        for _ in range(_ROUNDS):
            try:
                found, after = await store.search(principal.owner, query, after, limit - len(hits))
            except ValueError as error:
                raise ProtocolError("invalid_frame", "after is what `next` of a page said", path="after") from error
            hits += found
            if after is None or len(hits) == limit:
                break
        return json_reply({"results": [_shown(hit) for hit in hits], "next": after})

    return [Route("/v1/search", guard(search), methods=["GET"])]


def _shown(hit: SearchHit) -> dict[str, Any]:
    return {
        "context_id": hit.key.id,
        "title": hit.title,
        "message_id": hit.message_id,
        "role": hit.role,
        "seq": hit.seq,
        "timestamp": moment(hit.at),
        # Plain text in pieces, so that no client has to take marks out of text that a user wrote.
        "snippet": [
            {"text": piece.text, "match": True} if piece.match else {"text": piece.text} for piece in hit.snippet
        ],
    }
