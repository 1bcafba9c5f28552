"""What the adapters' searches share: hits as they are read, and the tokens of pages."""

from __future__ import annotations

import base64
import binascii
import math

import msgspec
from msgspec import Struct

from protocol.frames import Message
from stores.records import ContextKey, SearchHit
from stores.search_text import Query, searchable, snippet

__all__ = ["TITLE", "Found", "Place", "place_of", "read_hit", "token_of"]

TITLE = 1 << 62
"""A title's place among the texts of its context: before all messages, which come by falling order."""

_decode_message = msgspec.json.Decoder(Message).decode

Place = tuple[float, str, int]
"""Up to where a search came: a context's `updated_at` then, its id, and the place of the last text that it saw in it,
0 where it saw them all."""


class Found(Struct, frozen=True):
    """A hit as it was read, before its snippet is made."""

    key: ContextKey
    title: str | None
    updated_at: float
    message: tuple[str, int | None, bytes, float] | None


def read_hit(found: Found, query: Query) -> SearchHit:
    """The hit with its snippet. Needs no database, and takes a while where texts are long."""
    if found.message is None:
        marked = snippet(found.title or "", query)
        moment = found.updated_at
        return SearchHit(key=found.key, title=found.title, updated_at=moment, at=moment, snippet=marked)
    id, seq, body, stored_at = found.message
    message = _decode_message(body)
    text = searchable(message.role, message.content) or ""
    return SearchHit(
        key=found.key,
        title=found.title,
        updated_at=found.updated_at,
        at=stored_at,
        snippet=snippet(text, query),
        message_id=id,
        role=message.role,
        seq=seq,
    )


def token_of(place: Place) -> str:
    moment, id, below = place
    return base64.urlsafe_b64encode(f"{moment!r} {below} {id}".encode()).decode()


def place_of(token: str | None) -> Place:
    """Where the page that the token was given with ended; the beginning for None. Raises ValueError for a text that is
    no token."""
    if token is None:
        return math.inf, "", 0
    try:
        decoded = base64.b64decode(token.encode(), b"-_", validate=True).decode()
        moment, place, id = decoded.split(" ", 2)
        numbers = float(moment), int(place)
    except (binascii.Error, UnicodeError) as error:
        raise ValueError("not a token of a page") from error
    if not math.isfinite(numbers[0]) or not 0 <= numbers[1] <= TITLE or "\0" in id:
        raise ValueError("not a token of a page")
    return numbers[0], id, numbers[1]
