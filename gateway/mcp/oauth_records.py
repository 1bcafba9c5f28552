"""What the gateway remembers of authorization servers, and of who authorized it there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

__all__ = [
    "FLOW_SECONDS",
    "GATEWAY",
    "Begun",
    "Client",
    "ConnectionState",
    "Finished",
    "Flow",
    "FlowRefused",
    "Grant",
    "Provider",
    "Registration",
    "flow_id",
    "grant_name",
]

FLOW_SECONDS: Final = 600

GATEWAY: Final = "gateway"
"""The owner of what belongs to no principal. Principals' owners have a slash in them."""

_PART: Final = 0.2
_MOST_AHEAD: Final = 60.0


class Client(Struct, frozen=True, kw_only=True):
    """Who the gateway is for an authorization server. `secret` None: it has none, or it is in the settings. `method` is
    `none`, `client_secret_basic` or `client_secret_post`."""

    id: str
    secret: str | None = None
    method: str = "none"

    def __repr__(self) -> str:
        return f"Client({self.id!r}, {self.method})"


class Registration(Struct, frozen=True, kw_only=True):
    """A client that was registered at `issuer`; `expires_at`: its secret's end, in seconds since 1970."""

    issuer: str
    client: Client
    expires_at: float | None = None


class Provider(Struct, frozen=True, kw_only=True):
    """An authorization server (RFC 8414), and the `resource` that its tokens are for (RFC 8707)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str | None
    resource: str


class Flow(Struct, frozen=True, kw_only=True):
    """An authorization that was begun: what its end needs. `metadata` is the authorization server's, as JSON; `browser`
    the hash of the secret that the browser of whoever began it holds."""

    owner: str
    subject: str
    server: str
    provider: Provider
    metadata: str
    client: Client
    verifier: str
    scope: str | None
    browser: str
    expires_at: float

    def __repr__(self) -> str:
        return f"Flow({self.server!r}, {self.owner!r})"


class FlowRefused(Exception):
    """An authorization that does not come to its end, in words for whoever sees the page. `again`: it may, later."""

    def __init__(self, words: str, *, again: bool = False) -> None:
        super().__init__(words)
        self.again = again


class Begun(Struct, frozen=True):
    """`url` is where the user's browser goes; `cookie` and its `secret` are for the browser that began."""

    url: str
    cookie: str
    secret: str

    def __repr__(self) -> str:
        return "Begun(…)"


class Finished(Struct, frozen=True):
    """An authorization of the user called `subject`. `code` None: it is done; else the user has to confirm it."""

    server: str
    subject: str
    code: str | None


class ConnectionState(Struct, frozen=True, kw_only=True):
    """A server that needs its users' authorization, and how one user stands with it. `expires_at` None: it does not end
    by itself; `missing` are scopes that the server asked for; `problem` says why it must be connected anew."""

    name: str
    connected: bool = False
    scopes: Sequence[str] = ()
    missing: Sequence[str] = ()
    expires_at: float | None = None
    problem: str | None = None


class Grant(Struct, frozen=True, kw_only=True):
    """What an owner has authorized the gateway to at a server. Times are in seconds since 1970.

    `id` is that of the authorization, which no other one has; `rotation` counts its refreshes. Until `busy_until` one
    instance refreshes it, or, where there is a `trouble`, nobody tries again. `lost` says why it is good for nothing
    any more, `wanted` which scopes the server asked for that it lacks.
    """

    id: str
    provider: Provider
    client: Client
    scope: str | None
    access_token: str
    refresh_token: str | None
    obtained_at: float
    expires_at: float | None
    rotation: int = 0
    busy_until: float = 0.0
    trouble: str | None = None
    lost: str | None = None
    wanted: str | None = None

    def is_due(self, now: float) -> bool:
        """Whether it is to be refreshed: a minute before its end, or a fifth of its life where that is shorter."""
        if self.expires_at is None:
            return False
        return now >= self.expires_at - min(_MOST_AHEAD, _PART * (self.expires_at - self.obtained_at))

    def has_expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def __repr__(self) -> str:
        return f"Grant({self.id!r}, rotation={self.rotation})"


def grant_name(server: str) -> str:
    """The name that the grant for a server is kept under."""
    return f"oauth/{server}"


def flow_id(state: str) -> str:
    """What the cookie of a flow's browser is called by: several may be under way in one browser."""
    return hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()[:16]
