"""The tokens of pages, newest first and of one moment the highest id, which all adapters share: a store of several
shards makes one for all of them from what a page ended with (stores/sharded.py)."""

from __future__ import annotations

import base64
import binascii
import math

from stores.records import ContextRecord

__all__ = ["context_token", "page_place", "page_token"]


def context_token(last: ContextRecord) -> str:
    """The token of the page that follows one that ended with this context."""
    return page_token(last.updated_at, last.key.id)


def page_token(moment: float, id: str) -> str:
    """The token of the page that follows one that ended there."""
    return base64.urlsafe_b64encode(f"{moment!r} {id}".encode()).decode()


def page_place(token: str | None) -> tuple[float, str]:
    """The moment and id below which the page lies, above all that there are for None. Raises ValueError for a
    text that is no token."""
    if token is None:
        return math.inf, ""
    try:
        moment, separator, id = base64.b64decode(token.encode(), b"-_", validate=True).decode().partition(" ")
    except (binascii.Error, UnicodeError) as error:
        raise ValueError("not a token of a page") from error
    if not separator or not math.isfinite(float(moment)) or "\0" in id:
        raise ValueError("not a token of a page")
    return float(moment), id
