"""The token and revocation endpoints of an authorization server (RFC 6749, RFC 7009)."""

from __future__ import annotations

import base64
from typing import Any, Final, cast
from urllib.parse import quote

import httpx2
import msgspec
import structlog
from mcp.shared.auth import OAuthToken
from pydantic import ValidationError

from gateway.mcp.oauth_records import Client, Flow, Grant
from gateway.mcp.oauth_settings import ProtectedServer
from gateway.mcp.oauth_wire import NotNow, ProviderRefused, Wire

__all__ = ["TokenEndpoint", "expiry"]

_MAX_BYTES: Final = 64 * 1024
_LEAST_SECONDS: Final = 5
# Of an `error` that is told with a status of the client's fault, or with 200, as some do: those that pass.
_PASSING: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_log = structlog.stdlib.get_logger(__name__)


class TokenEndpoint:
    """Raises NotNow where the answer says nothing about the grant, ProviderRefused where it refuses it."""

    def __init__(self, wire: Wire, redirect_uri: str) -> None:
        self._wire = wire
        self._redirect_uri = redirect_uri

    async def exchange(self, server: ProtectedServer, flow: Flow, code: str) -> OAuthToken:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": flow.verifier,
            "resource": flow.provider.resource,
        }
        return await self._ask(server, flow.provider.token_endpoint, flow.client, form)

    async def refresh(self, server: ProtectedServer, grant: Grant) -> OAuthToken:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": grant.refresh_token or "",
            "resource": grant.provider.resource,
        }
        return await self._ask(server, grant.provider.token_endpoint, grant.client, form)

    async def revoke(self, server: ProtectedServer, grant: Grant) -> bool:
        """Whether the authorization server has done it: of a grant with a refresh token, all that it stands for."""
        endpoint, token = grant.provider.revocation_endpoint, grant.refresh_token or grant.access_token
        if endpoint is None or not token:
            return False
        hint = "refresh_token" if grant.refresh_token else "access_token"
        request = _request(
            endpoint, grant.client, _secret(server, grant.client), {"token": token, "token_type_hint": hint}
        )
        try:
            response = await self._wire.send(request, most=_MAX_BYTES)
        except NotNow:
            return False
        return response.status_code == 200

    async def _ask(self, server: ProtectedServer, endpoint: str, client: Client, form: dict[str, str]) -> OAuthToken:
        response = await self._wire.send(_request(endpoint, client, _secret(server, client), form), most=_MAX_BYTES)
        status, whose = response.status_code, f"the authorization server of {server.name}"
        code = _error(response.content)
        if code is not None and status < 500 and status != 429 and code not in _PASSING:
            _log.info("oauth_token_refused", server=server.name, status=status, error=code)
            raise ProviderRefused(f"{whose} refuses it ({code})", code)
        if status not in (200, 201) or code is not None:
            _log.warning("oauth_token_not_given", server=server.name, status=status, error=code)
            raise NotNow(f"{whose} answers {code or status}")
        try:
            return OAuthToken.model_validate_json(response.content)
        except ValidationError:
            # Not as the cause: it quotes what came.
            raise NotNow(f"{whose} gives something that is no token") from None


def expiry(token: OAuthToken, now: float) -> float | None:
    """When the token ends, in seconds since 1970. It is good for five seconds at least: one that has ended before it
    came would be renewed without end."""
    return now + max(token.expires_in, _LEAST_SECONDS) if token.expires_in is not None else None


def _secret(server: ProtectedServer, client: Client) -> str | None:
    """That of the settings is not kept with the grant: it may be changed there."""
    return server.client_secret if client.id == server.settings.client_id else client.secret


def _request(endpoint: str, client: Client, secret: str | None, form: dict[str, str]) -> httpx2.Request:
    """With what shows the client (RFC 6749, 2.3.1)."""
    headers = {"accept": "application/json"}
    if secret is not None and client.method == "client_secret_basic":
        shown = f"{quote(client.id, safe='')}:{quote(secret, safe='')}"
        headers["authorization"] = "Basic " + base64.b64encode(shown.encode()).decode()
    else:
        form = {**form, "client_id": client.id}
        if secret is not None:
            form["client_secret"] = secret
    return httpx2.Request("POST", endpoint, data=form, headers=headers)


def _error(content: bytes) -> str | None:
    """The `error` of an answer, in characters that may be shown (RFC 6749, 5.2)."""
    try:
        found: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    code = cast("dict[str, Any]", found).get("error") if isinstance(found, dict) else None
    if not isinstance(code, str) or not code:
        return None
    return code[:64] if code.isascii() and code.isprintable() else "error"
