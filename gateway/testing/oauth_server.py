"""An authorization server over the real wire, and what protects a fake MCP server with it.

```python
async with FakeMCP().http() as url, FakeOAuth().http() as issuer:
    oauth.protect(mcp, url)  # 401 with the metadata's address (RFC 9728) for whoever has no good token
```

It speaks OAuth 2.1: metadata (RFC 8414), dynamic registration (RFC 7591), the code flow with PKCE, resource indicators
(RFC 8707), `iss` (RFC 9207), rotating refresh tokens, revocation (RFC 7009). Nobody has to log in: the account is the
parameter `account` of the authorization URL, `deny=1` refuses. A refresh token that comes twice ends all tokens of its
authorization, as it does at real providers, and is counted in `reuses`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import unquote, urlencode

from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gateway.testing.mcp_http import Refusal, serving
from gateway.testing.mcp_server import FakeMCP

__all__ = ["FakeOAuth", "Fault"]

Fault = Callable[[Mapping[str, str]], Awaitable[Response | None]]
"""Is given the form of a request, and may answer in the server's place."""

_METADATA: Final = "/.well-known/oauth-authorization-server"
_RESOURCE: Final = "/resource"


class _Client(Struct):
    id: str
    secret: str | None
    redirect_uris: list[str]


class _Code(Struct):
    client: str
    redirect_uri: str
    challenge: str
    account: str
    scope: str
    resource: str


class _Grant(Struct):
    """One authorization, whatever tokens there were of it."""

    account: str
    client: str
    scope: str
    resource: str
    refresh: str = ""
    access: str = ""
    revoked: bool = False


class FakeOAuth:
    """`requests` counts what came, by endpoint, `refreshes` the refreshes that were answered with tokens. `before` and
    `after` hold what happens at an endpoint before it does its work (`metadata`, `resource`, `register`, `token`,
    `revoke`), and when it has done it (the last two); `metadata` and `resource_metadata` what its metadata says in
    place of the usual. While `wants` is set, requests whose tokens lack that scope are answered with 403."""

    def __init__(
        self, *, scopes: tuple[str, ...] = ("read",), access_seconds: int | None = 3600, refresh: bool = True
    ) -> None:
        self.scopes = scopes
        self.access_seconds = access_seconds
        self.refresh = refresh
        self.requests: Counter[str] = Counter()
        self.refreshes = self.reuses = 0
        self.before: dict[str, Fault] = {}
        self.after: dict[str, Fault] = {}
        self.metadata: dict[str, Any] = {}
        self.resource_metadata: dict[str, Any] = {}
        self.wants: str | None = None
        self.issuer = ""
        self.grants: list[_Grant] = []
        self.clients: dict[str, _Client] = {}
        self._resource = ""
        self._codes: dict[str, _Code] = {}
        self._access: dict[str, _Grant] = {}
        self._refresh: dict[str, _Grant] = {}

    @asynccontextmanager
    async def http(self, port: int = 0) -> AsyncGenerator[str]:
        """Serve on 127.0.0.1, and yield the issuer."""
        posts: dict[str, Callable[[Mapping[str, str], Request], Response]] = {
            "token": self._token,
            "revoke": self._revoke,
        }
        routes = [
            Route(_METADATA, self._show, methods=["GET"]),
            Route(_RESOURCE, self._show_resource, methods=["GET"]),
            Route("/authorize", self._authorize, methods=["GET"]),
            Route("/register", self._register, methods=["POST"]),
            *(Route(f"/{name}", self._posted(name, work), methods=["POST"]) for name, work in posts.items()),
        ]
        async with serving(Starlette(routes=routes), port) as origin:
            self.issuer = origin
            yield origin

    def protect(self, mcp: FakeMCP, url: str) -> None:
        """From now on the MCP server at `url` wants a token of this server."""
        self._resource = url
        mcp.refuse = self.refuse

    def add_client(self, id: str, secret: str | None, *redirect_uris: str) -> None:
        """Register a client by hand."""
        self.clients[id] = _Client(id, secret, list(redirect_uris))

    def account(self, headers: Mapping[str, str]) -> str | None:
        """Whose the token on a request is; None where it is not good."""
        grant = self._access.get(headers.get("authorization", "").removeprefix("Bearer "))
        return grant.account if grant is not None and not grant.revoked else None

    def expire(self) -> None:
        """End all access tokens that there are."""
        self._access.clear()

    def refuse(self, headers: dict[str, str]) -> Refusal | None:
        """What a protected server answers to a request with these headers; None: it may pass."""
        self.requests["mcp"] += 1
        where = f'resource_metadata="{self.issuer}{_RESOURCE}"'
        grant = self._access.get(headers.get("authorization", "").removeprefix("Bearer "))
        if grant is None or grant.revoked or grant.resource != self._resource:
            challenge = f'Bearer {where}, scope="{" ".join(self.scopes)}"'
            return Refusal(401, {"www-authenticate": challenge})
        if self.wants is not None and self.wants not in grant.scope.split():
            challenge = f'Bearer error="insufficient_scope", scope="{self.wants}", {where}'
            return Refusal(403, {"www-authenticate": challenge})
        return None

    # ---- endpoints

    async def _show(self, request: Request) -> Response:
        self.requests["metadata"] += 1
        if (fault := self.before.get("metadata")) is not None and (answer := await fault({})) is not None:
            return answer
        usual = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "authorization_response_iss_parameter_supported": True,
            "scopes_supported": list(self.scopes),
        }
        shown = {**usual, **self.metadata}
        return JSONResponse({name: value for name, value in shown.items() if value is not None})

    async def _show_resource(self, request: Request) -> Response:
        self.requests["resource"] += 1
        if (fault := self.before.get("resource")) is not None and (answer := await fault({})) is not None:
            return answer
        usual = {"resource": self._resource, "authorization_servers": [self.issuer]}
        return JSONResponse({**usual, **self.resource_metadata})

    async def _authorize(self, request: Request) -> Response:
        self.requests["authorize"] += 1
        asked = request.query_params
        client = self.clients.get(asked.get("client_id", ""))
        back = asked.get("redirect_uri", "")
        if client is None or back not in client.redirect_uris or asked.get("code_challenge_method") != "S256":
            return Response("no such client, or no such redirect URI", 400)
        told = {"state": asked.get("state", ""), "iss": self.issuer}
        if asked.get("deny"):
            return RedirectResponse(f"{back}?{urlencode({**told, 'error': 'access_denied'})}", 302)
        code = secrets.token_urlsafe(16)
        self._codes[code] = _Code(
            client=client.id,
            redirect_uri=back,
            challenge=asked["code_challenge"],
            account=asked.get("account", "somebody"),
            scope=asked.get("scope", ""),
            resource=asked.get("resource", ""),
        )
        return RedirectResponse(f"{back}?{urlencode({**told, 'code': code})}", 302)

    async def _register(self, request: Request) -> Response:
        self.requests["register"] += 1
        if (fault := self.before.get("register")) is not None and (answer := await fault({})) is not None:
            return answer
        asked: dict[str, Any] = await request.json()
        method = asked.get("token_endpoint_auth_method", "client_secret_basic")
        secret = secrets.token_urlsafe(16) if method != "none" else None
        client = _Client(f"client-{len(self.clients) + 1}", secret, asked["redirect_uris"])
        self.clients[client.id] = client
        told = {**asked, "client_id": client.id, **({"client_secret": secret} if secret is not None else {})}
        return JSONResponse(told, 201)

    def _posted(
        self, name: str, work: Callable[[Mapping[str, str], Request], Response]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self.requests[name] += 1
            form = {key: str(value) for key, value in (await request.form()).items()}
            if (fault := self.before.get(name)) is not None and (answer := await fault(form)) is not None:
                return answer
            # It goes through with it, also where the client is not there any more to hear of it.
            done = work(form, request)
            if (fault := self.after.get(name)) is not None and (answer := await fault(form)) is not None:
                return answer
            return done

        return endpoint

    def _token(self, form: Mapping[str, str], request: Request) -> Response:
        client = self._client(form, request)
        if client is None:
            return _error("invalid_client", 401)
        if form.get("grant_type") == "authorization_code":
            code = self._codes.pop(form.get("code", ""), None)
            if code is None or not self._fits(code, client, form):
                return _error("invalid_grant")
            grant = _Grant(account=code.account, client=client.id, scope=code.scope, resource=code.resource)
            self.grants.append(grant)
            return self._issue(grant)
        grant = self._refresh.get(form.get("refresh_token", ""))
        if grant is None or grant.revoked or grant.client != client.id:
            return _error("invalid_grant")
        if form["refresh_token"] != grant.refresh:
            # Somebody has it who should not.
            self.reuses += 1
            grant.revoked = True
            return _error("invalid_grant")
        self.refreshes += 1
        return self._issue(grant)

    def _issue(self, grant: _Grant) -> Response:
        self._access.pop(grant.access, None)
        grant.access = secrets.token_urlsafe(16)
        self._access[grant.access] = grant
        told: dict[str, Any] = {"access_token": grant.access, "token_type": "bearer", "scope": grant.scope}
        if self.access_seconds is not None:
            told["expires_in"] = self.access_seconds
        if self.refresh:
            grant.refresh = told["refresh_token"] = secrets.token_urlsafe(16)
            self._refresh[grant.refresh] = grant
        return JSONResponse(told)

    def _revoke(self, form: Mapping[str, str], request: Request) -> Response:
        if self._client(form, request) is None:
            return _error("invalid_client", 401)
        token = form.get("token", "")
        grant = self._refresh.get(token) or self._access.get(token)
        if grant is not None:
            grant.revoked = True
        return Response(status_code=200)

    def _client(self, form: Mapping[str, str], request: Request) -> _Client | None:
        """The client that has shown who it is (RFC 6749, 2.3.1)."""
        id, secret = form.get("client_id", ""), form.get("client_secret")
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            id, _, secret = (unquote(part) for part in base64.b64decode(shown).decode().partition(":"))
        client = self.clients.get(id)
        if client is None or not secrets.compare_digest(client.secret or "", secret or ""):
            return None
        return client

    def _fits(self, code: _Code, client: _Client, form: Mapping[str, str]) -> bool:
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        return (
            code.client == client.id
            and code.redirect_uri == form.get("redirect_uri")
            and code.resource == form.get("resource")
            and code.challenge == base64.urlsafe_b64encode(digest).decode().rstrip("=")
        )


def _error(code: str, status: int = 400) -> Response:
    return JSONResponse({"error": code}, status)
