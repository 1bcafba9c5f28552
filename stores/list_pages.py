"""The tokens of pages of contexts, which all adapters of ContextStore share: a store of several shards makes one for
all of them from the last context of a page (stores/sharded.py)."""

from __future__ import annotations

import base64
import binascii
import math

from stores.records import ContextRecord

__all__ = ["context_place", "context_token"]


def context_token(last: ContextRecord) -> str:
    """The token of the page that follows one that ended with this context."""
    return base64.urlsafe_b64encode(f"{last.updated_at!r} {last.key.id}".encode()).decode()


def context_place(token: str | None) -> tuple[float, str]:
    """The `updated_at` and id below which the page lies, above all that there are for None. Raises ValueError for a
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
