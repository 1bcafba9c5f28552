"""Full-text search over one owner's contexts, inside a transaction (ports.SearchStore).

A search walks through the terms of the owner's texts, those of the newest context first, and stops as soon as a page is
full or it has seen `_BYTES` of them. So it costs what this owner has at most, 2 to 3 ms a megabyte, and one call never
holds the reading thread for long. An inverted index would answer sooner where there are very many texts and few hits,
but every message would pay for it, six times as much for an answer of 400 words; FTS5 moreover keeps what was deleted
in its segments, which only SQLite 3.42 and later can change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from protocol.frames import Message
from stores.records import ContextKey
from stores.search_pages import TITLE, Found, place_of, read_hit, token_of
from stores.search_text import Query, searchable, terms_of

__all__ = ["Found", "index_message", "index_title", "install", "read_hit", "search"]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

_BYTES = 1 << 20
# What a row and a context cost beside their bytes, in bytes that take as long.
_ROW, _CONTEXT = 300, 1500

_decode_message = msgspec.json.Decoder(Message).decode


# ---- writing


def install(db: sqlite3.Connection) -> None:
    """The functions that the migration needs."""
    db.create_function("terms_of_title", 1, _joined)
    db.create_function("terms_of_message", 1, _terms_of_message)


def _terms_of_message(body: bytes) -> bytes | None:
    try:
        message = _decode_message(body)
    except msgspec.DecodeError:
        return None  # what can't be read can't be found, and must not stop the migration
    return _joined(searchable(message.role, message.content))


def _joined(text: str | None) -> bytes | None:
    terms = terms_of(text or "")
    return f" {' '.join(terms)} ".encode() if terms else None


def index_message(db: sqlite3.Connection, cid: int, order: int, text: str) -> None:
    terms = _joined(text)
    if terms is not None:
        db.execute("INSERT INTO search_texts (cid, ord, terms) VALUES (?, ?, ?)", (cid, order, terms))


def index_title(db: sqlite3.Connection, cid: int, title: str) -> None:
    """Make this the title under which the context is found."""
    db.execute("DELETE FROM search_texts WHERE cid = ? AND ord = ?", (cid, TITLE))
    index_message(db, cid, TITLE, title)


# ---- reading


def search(
    db: sqlite3.Connection, owner: str, query: Query, after: str | None, limit: int
) -> tuple[list[Found], str | None]:
    """Up to `limit` hits and the token of the next page. Raises ValueError for what is no token."""
    moment, id, below = last = place_of(after)
    if not query.terms:
        return [], None
    found: list[Found] = []
    spent = 0
    for cid, context_id, title, updated_at in _contexts(db, owner, *last):
        # A context goes on where the page before left it, wherever it has moved since. What follows it counts from
        # where it stood then, so that nothing is passed twice.
        resumed = below > 0 and context_id == id
        at = moment if resumed else updated_at
        for order, size, matches in _texts(db, cid, below if resumed else TITLE + 1, query):
            if len(found) >= limit or spent > _BYTES:
                return found, token_of(last)
            if matches:
                message = None if order == TITLE else _message(db, cid, order)
                found.append(Found(ContextKey(owner, context_id), title, updated_at, message))
            last = (at, context_id, order)
            spent += size + _ROW
        last = (at, context_id, 0)
        spent += _CONTEXT
        if spent > _BYTES:
            return found, token_of(last)
    return found, None


def _contexts(
    db: sqlite3.Connection, owner: str, moment: float, id: str, below: int
) -> Iterator[tuple[int, str, str | None, float]]:
    """The owner's contexts after that one, and itself first where some of it may be left."""
    columns = "SELECT cid, id, title, updated_at FROM contexts WHERE owner = ?"
    if below > 0:
        yield from db.execute(f"{columns} AND id = ?", (owner, id))
    yield from db.execute(
        f"{columns} AND (updated_at, id) < (?, ?) ORDER BY updated_at DESC, id DESC", (owner, moment, id)
    )


def _texts(db: sqlite3.Connection, cid: int, below: int, query: Query) -> Iterator[tuple[int, int, int]]:
    """The context's texts, the title first, then the newest: place, bytes, whether all terms are in it."""
    # Whole words first: they are the rarer ones as a rule, and what lacks the first is not looked at again.
    marks = [f" {term.text}".encode() if term.prefix else f" {term.text} ".encode() for term in query.terms]
    marks.sort(key=len, reverse=True)
    tests = " AND ".join(["instr(terms, ?)"] * len(marks))
    return db.execute(
        f"SELECT ord, length(terms), {tests} FROM search_texts WHERE cid = ? AND ord < ? ORDER BY ord DESC",
        (*marks, cid, below),
    )


def _message(db: sqlite3.Connection, cid: int, order: int) -> tuple[str, int | None, bytes, float]:
    return db.execute("SELECT id, seq, body, stored_at FROM events WHERE cid = ? AND ord = ?", (cid, order)).fetchone()
