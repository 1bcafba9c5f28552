"""What a store's URL is refused with."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["StoreUrlError", "without_secrets"]


class StoreUrlError(ValueError):
    """The URL names nothing that can be used as a store; the message says what was expected."""


def without_secrets(url: str) -> str:
    """What of a URL names a database: neither who connects to it, nor how."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
