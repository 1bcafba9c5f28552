"""From what a client shows to who it is (docs/protocol.md, section 1, "Authentication")."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping

from gateway.auth.api_keys import KEY_PREFIX, ApiKeys
from gateway.auth.jwt import JwtVerifier
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from protocol.errors import ProtocolError
from stores.ports import Unavailable

__all__ = ["LOCAL", "Authenticator", "CustomScheme"]

LOCAL = Principal(tenant="default", subject="local")
"""The user of a gateway without configured authentication, which listens on loopback only."""

CustomScheme = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[Principal | None]]
"""A host's own scheme: given headers and query, it answers the principal, or None where the request shows nothing of
its kind; it raises ProtocolError `unauthenticated` where what it shows is wrong."""

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
        custom: CustomScheme | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._jwt = jwt
        self._tickets = tickets
        self._custom = custom
        self.local_token = f"local_{secrets.token_urlsafe(32)}" if local else None

    async def from_headers(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal | None:
        """Who asks, by the request's headers and query; None where it shows no credentials (a socket then waits for
        `hello`). `headers` has lower-case names, or is blind to case.

        Raises ProtocolError `unauthenticated`, whose path is "headers.<name>" or "query.<name>" (a browser learns of
        the latter only after the upgrade), or `unavailable`.
        """
        try:
            principal = None if self._custom is None else await self._custom(headers, query)
            if principal is not None:
                return principal
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
