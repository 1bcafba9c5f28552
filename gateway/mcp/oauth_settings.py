"""`[mcp.<name>] oauth`: a remote server whose users authorize the gateway at its authorization server."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta, Struct

__all__ = [
    "CALLBACK",
    "CLIENT_DOCUMENT",
    "OAuthSettings",
    "ProtectedServer",
    "is_loopback",
    "origin_of",
    "protected",
    "public_url_problem",
    "redirect_uri",
]

CALLBACK: Final = "/v1/oauth/callback"
CLIENT_DOCUMENT: Final = "/v1/oauth/client.json"
_Text = Annotated[str, Meta(min_length=1)]
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749, 3.3


class OAuthSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it is optional: `oauth = {}` finds out everything and registers the gateway by itself (RFC 7591).

    `client_id`, and `client_secret_env`, the variable that holds its secret, are those of a client that was registered
    by hand; `client_metadata_url` is where the gateway's client metadata document is published, for authorization
    servers that take such a URL for a client id. `scopes` are asked for in place of those that the server names;
    `issuer` is the only authorization server that is accepted.
    """

    client_id: _Text | None = None
    client_secret_env: _Text | None = None
    client_metadata_url: _Text | None = None
    scopes: tuple[str, ...] | None = None
    issuer: _Text | None = None


class ProtectedServer(Struct, frozen=True, kw_only=True):
    """An MCP server that wants its users' authorization, ready for use."""

    name: str
    url: str
    settings: OAuthSettings
    client_secret: str | None = None

    def is_covered_by(self, resource: str) -> bool:
        """Whether tokens for the `resource` are for this server: the same, or one above it at the same origin."""
        one, all = urlsplit(self.url), urlsplit(resource)
        below = f"{one.path.rstrip('/')}/".startswith(f"{all.path.rstrip('/')}/")
        return origin_of(self.url) == origin_of(resource) and below

    def __repr__(self) -> str:
        return f"ProtectedServer({self.name!r})"


def protected(name: str, url: str, settings: OAuthSettings, environ: Mapping[str, str] = os.environ) -> ProtectedServer:
    """Raises ValueError, which names the key below `oauth` and says what was expected."""
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise ValueError("tokens go to https://… or to this machine only")
    if settings.client_secret_env is not None and settings.client_id is None:
        raise ValueError("client_secret_env: expected client_id with it")
    if settings.client_id is not None and settings.client_metadata_url is not None:
        raise ValueError("expected client_id or client_metadata_url, not both")
    for key in ("client_metadata_url", "issuer"):
        given = getattr(settings, key)
        if given is not None and _split(given) is None:
            raise ValueError(f"{key}: expected https://…")
    metadata = settings.client_metadata_url
    if metadata is not None and (urlsplit(metadata).scheme != "https" or urlsplit(metadata).path in ("", "/")):
        raise ValueError("client_metadata_url: expected https://HOST/PATH")
    for scope in settings.scopes or ():
        if not _SCOPE.fullmatch(scope):
            raise ValueError(f"scopes: {scope!r} is no scope")
    secret = None
    if settings.client_secret_env is not None:
        secret = environ.get(settings.client_secret_env)
        if not secret:
            raise ValueError(f"client_secret_env: the environment variable {settings.client_secret_env} is not set")
    return ProtectedServer(name=name, url=url, settings=settings, client_secret=secret)


def redirect_uri(public_url: str | None, host: str, port: int) -> str:
    """Where browsers come back to: at `public_url`, else at the address that is listened on. Raises ValueError where
    that is none that a browser finds, or that a provider would accept."""
    if public_url is not None:
        return public_url.rstrip("/") + CALLBACK
    shown = f"[{host}]" if ":" in host else host
    own = f"http://{shown}:{port}"
    if port == 0 or not is_loopback(own):
        raise ValueError("expected server.public_url, the https://… that browsers reach this gateway by")
    return own + CALLBACK


def public_url_problem(url: str) -> str | None:
    """What is wrong with a `server.public_url`."""
    parts = _split(url)
    if parts is None or "?" in url or "#" in url or "@" in parts.netloc:
        return "expected https://HOST or https://HOST/PATH"
    if parts.scheme == "http" and not is_loopback(url):
        return "expected https://…, but for this machine"
    return None


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port (RFC 6454, 4); None for what is no URL of a web server."""
    parts = _split(url)
    if parts is None:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port


def is_loopback(url: str) -> bool:
    parts = _split(url)
    host = parts.hostname if parts is not None else None
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult | None:
    """None for what is no URL of a web server."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if valid else None
