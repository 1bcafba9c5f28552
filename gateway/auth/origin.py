"""Which web pages may open a socket (docs/protocol.md, section 1, "Authentication")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["origin_allowed"]

_PORTS = {"http": 80, "https": 443}
_SECURE = {"ws": "http", "wss": "https"}


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def origin_allowed(origin: str | None, host: str, scheme: str, allow: Sequence[str]) -> bool:
    """Whether a request with this `Origin` header may go on.

    `host` is the request's Host header, `scheme` its scheme (http, https, ws or wss), `allow` the configured origins.
    No Origin: it is not a browser, and passes. An empty `allow` stands for the gateway's own origin, as the request
    names it; a list stands for itself only. "*" in it allows every origin except "null", which any sandboxed page has.
    """
    if origin is None:
        return True
    asked = _parse(origin)
    if asked is None:
        return False
    if not allow:
        return asked == _parse(f"{scheme}://{host}")
    return "*" in allow or any(asked == _parse(entry) for entry in allow)


def _parse(text: str) -> _Origin | None:
    """The origin in `text` (RFC 6454, section 6.2), with its port even where it is the scheme's own."""
    try:
        parts = urlsplit(text.strip().lower())
        port = parts.port
    except ValueError:
        return None
    scheme = _SECURE.get(parts.scheme, parts.scheme)
    if scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return None
    return _Origin(scheme, parts.hostname, _PORTS[scheme] if port is None else port)
