"""From what a client shows to who it is (docs/protocol.md, section 1, "Authentication")."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

from starlette.requests import HTTPConnection

from gateway.auth.api_keys import KEY_PREFIX, ApiKeys
from gateway.auth.host import HostScheme
from gateway.auth.jwt import JwtVerifier
from gateway.auth.principal import DEFAULT_TENANT, Principal
from gateway.auth.tickets import Tickets
from protocol.errors import ProtocolError
from stores.ports import Unavailable

__all__ = ["LOCAL", "Authenticator"]

LOCAL = Principal(tenant=DEFAULT_TENANT, subject="local")
"""The user of a gateway without configured authentication, which listens on loopback only."""

_SECRETS_IN_URL = ("token", "access_token", "api_key")


class Authenticator:
    """Checks credentials, the first ones present, and tells nobody what was wrong with them.

    With `local` a secret that is new at every start, `local_token`, is the user `LOCAL`'s: for the page of the gateway
    itself, which the printed one-time ticket opened.
    """

    def __init__(
        self,
        api_keys: ApiKeys,
        jwt: JwtVerifier | None,
        tickets: Tickets,
        local: bool = False,
        host: HostScheme | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._jwt = jwt
        self._tickets = tickets
        self._host = host
        self.local_token = f"local_{secrets.token_urlsafe(32)}" if local else None

    async def from_connection(self, connection: HTTPConnection) -> Principal | None:
        """Who asks: whom the host says, else by the headers and the query; None where nothing shows it (a socket then
        waits for `hello`). Raises as `from_headers` and `HostScheme` do."""
        principal = await self.from_host(connection)
        return principal or await self.from_headers(connection.headers, connection.query_params)

    async def from_host(self, connection: HTTPConnection) -> Principal | None:
        """Whom the host says it is; None without a host. Raises as `HostScheme` does."""
        return None if self._host is None else await self._host.principal(connection)

    async def from_headers(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal | None:
        """Who asks, by the gateway's own schemes; None where the request shows no credentials. `headers` has lower-case
        names, or is blind to case.

        Raises ProtocolError `unauthenticated`, whose path is "headers.<name>" or "query.<name>" (a browser learns of
        the latter only after the upgrade), or `unavailable`.
        """
        try:
            return await self._first_present(headers, query)
        except Unavailable as error:
            raise _unavailable() from error

    async def from_token(self, token: str) -> Principal:
        """Whose the token of a `hello` or `auth` frame is: a JWT or an API key. Raises as `from_headers` does."""
        try:
            return await self._token(token, "token")
        except Unavailable as error:
            raise _unavailable() from error

    async def _first_present(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal | None:
        authorization = headers.get("authorization")
        if authorization is not None:
            scheme, _, token = authorization.strip().partition(" ")
            if scheme.lower() != "bearer":
                raise _refusal("headers.authorization")
            return await self._token(token.strip(), "headers.authorization")
        key = headers.get("x-api-key")
        if key is not None:
            return _known(await self._api_keys.authenticate(key.strip()), "headers.x-api-key")
        ticket = query.get("ticket")
        if ticket is not None:
            return _known(await self._tickets.redeem(ticket), "query.ticket")
        for name in _SECRETS_IN_URL:
            if name in query:
                message = "a long-lived secret is not accepted in a URL: send a header, a ticket, or a token in hello"
                raise ProtocolError("unauthenticated", message, path=f"query.{name}")
        return None

    async def _token(self, token: str, path: str) -> Principal:
        if token.startswith(KEY_PREFIX):
            return _known(await self._api_keys.authenticate(token), path)
        if self.local_token is not None and _same(token, self.local_token):
            return LOCAL
        if self._jwt is None:
            raise _refusal(path)
        try:
            return await self._jwt.verify(token)
        except ProtocolError as error:
            error.path = path
            raise


def _known(principal: Principal | None, path: str) -> Principal:
    if principal is None:
        raise _refusal(path)
    return principal


def _refusal(path: str) -> ProtocolError:
    return ProtocolError("unauthenticated", "the credentials are not valid", path=path)


def _unavailable() -> ProtocolError:
    return ProtocolError("unavailable", "credentials can't be checked now")


def _same(one: str, other: str) -> bool:
    """Compared in constant time; what came over the wire may hold any characters."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())
