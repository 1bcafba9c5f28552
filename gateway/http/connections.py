"""Servers that need their users' authorization: what is connected, connecting, disconnecting (docs/mcp.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.authenticator import Authenticator
from gateway.auth.principal import Principal
from gateway.contexts import moment
from gateway.http.oauth_page import finished_page, refused_page
from gateway.http.replies import Guard, body, json_reply
from gateway.mcp.oauth_records import FLOW_SECONDS, ConnectionState, FlowRefused, flow_id
from gateway.mcp.oauth_settings import CALLBACK, CLIENT_DOCUMENT
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from gateway.mcp.oauth import OAuth

__all__ = ["connection_routes"]

_MAX_BODY = 4096
_log = structlog.stdlib.get_logger(__name__)


class _Confirmation(Struct):
    code: str


def connection_routes(guard: Guard, authenticator: Authenticator, oauth: OAuth | None) -> list[Route]:
    """`oauth` None: there is no such server."""
    secure = oauth is not None and oauth.redirect_uri.startswith("https:")

    def configured() -> OAuth:
        if oauth is None:
            raise ProtocolError("not_found", "there is no server that needs your authorization", path="server")
        return oauth

    async def connections(request: Request, principal: Principal) -> Response:
        states = await oauth.connections(principal) if oauth is not None else []
        return json_reply({"connections": [_shown(state) for state in states]})

    async def connect(request: Request, principal: Principal) -> Response:
        begun = await configured().begin(principal, request.path_params["server"])
        reply = json_reply({"authorization_url": begun.url, "expires_in": FLOW_SECONDS})
        # Whoever finishes this in the browser that began it needs nothing more.
        reply.set_cookie(
            begun.cookie, begun.secret, max_age=FLOW_SECONDS, path="/", secure=secure, httponly=True, samesite="lax"
        )
        reply.headers["cache-control"] = "no-store"
        return reply

    async def confirm(request: Request, principal: Principal) -> Response:
        given = await body(request, _Confirmation, _MAX_BODY)
        await configured().confirm(principal, request.path_params["server"], given.code)
        return json_reply({"connected": True})

    async def disconnect(request: Request, principal: Principal) -> Response:
        return json_reply({"revoked": await configured().disconnect(principal, request.path_params["server"])})

    async def callback(request: Request) -> Response:
        if request.method != "GET":
            # HEAD, by which links are looked at, must not use it up.
            return Response(status_code=405, headers={"allow": "GET"})
        try:
            reply = await _finished(request)
        except FlowRefused as refused:
            reply = refused_page(refused)
        except Exception:  # noqa: BLE001 - the boundary to a request: our bug is answered with a page
            _log.exception("an_authorization_failed")
            reply = refused_page(FlowRefused("It did not work, and that is our fault. Begin again.", again=True))
        own = flow_id(request.query_params.get("state", ""))
        for name in request.cookies:
            if name.endswith(f"tidegate-oauth-{own}"):
                reply.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")
        return reply

    async def _finished(request: Request) -> Response:
        if oauth is None:
            raise FlowRefused("There is no server that needs an authorization.")
        try:
            who = await authenticator.from_host(request)
        except ProtocolError:
            who = None
        return finished_page(await oauth.finish(request.query_params.multi_items(), request.cookies, who))

    async def client_document(request: Request) -> Response:
        if oauth is None:
            return Response(status_code=404)
        return json_reply(oauth.client_document())

    one = "/v1/connections/{server}"
    return [
        Route("/v1/connections", guard(connections), methods=["GET"]),
        Route(one, guard(connect), methods=["POST"]),
        Route(one, guard(disconnect), methods=["DELETE"]),
        Route(f"{one}/confirm", guard(confirm), methods=["POST"]),
        Route(CALLBACK, callback, methods=["GET"]),
        Route(CLIENT_DOCUMENT, client_document, methods=["GET"]),
    ]


def _shown(state: ConnectionState) -> dict[str, Any]:
    return {
        "name": state.name,
        "connected": state.connected,
        "scopes": list(state.scopes),
        "missing_scopes": list(state.missing),
        "expires_at": moment(state.expires_at) if state.expires_at is not None else None,
        "problem": state.problem,
    }
