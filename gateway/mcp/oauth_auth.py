"""Authenticates the requests of one connection, which is one owner's, to one server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import httpx2
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth

from gateway.mcp.oauth_grants import Tokens, advice
from gateway.mcp.oauth_records import Grant
from gateway.mcp.oauth_settings import ProtectedServer, origin_of
from gateway.mcp.oauth_wire import NeedsAuthorization
from gateway.mcp.transports import SessionOver

__all__ = ["BearerAuth"]

_SESSION: Final = "mcp-session-id"
_HEADER: Final = "authorization"


class BearerAuth(httpx2.Auth):
    """Puts the owner's access token on requests to the server's own origin, and on no others. Raises ServerAway
    (NeedsAuthorization, NotNow), in words for the model and the user, out of the request."""

    def __init__(self, server: ProtectedServer, tokens: Tokens) -> None:
        self._server = server
        self._tokens = tokens
        self._origin = origin_of(server.url)
        self._grant_id: str | None = None

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        # A redirected request comes with what the first one had.
        request.headers.pop(_HEADER, None)
        if origin_of(str(request.url)) != self._origin:
            yield request
            return
        grant = await self._tokens.current()
        self._put(request, grant)
        response = yield request
        if response.status_code == 401:
            grant = await self._tokens.after_refusal(grant.access_token)
            self._put(request, grant)
            response = yield request
            if response.status_code == 401:
                name = self._server.name
                raise NeedsAuthorization(f"the MCP server {name!r} refuses your authorization: {advice(name)}")
        if response.status_code == 403 and extract_field_from_www_auth(response, "error") == "insufficient_scope":
            raise await self._tokens.lacks(extract_scope_from_www_auth(response))

    def _put(self, request: httpx2.Request, grant: Grant) -> None:
        if self._grant_id is None:
            self._grant_id = grant.id
        elif self._grant_id != grant.id and _SESSION in request.headers:
            # It may be another account's now, which must not go on in a session of the one before.
            raise SessionOver(f"the MCP server {self._server.name!r} was connected anew")
        request.headers[_HEADER] = f"Bearer {grant.access_token}"
