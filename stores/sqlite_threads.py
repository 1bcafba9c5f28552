"""What a conversation is made of for a model, inside a transaction (ports.ContextStore)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.ports import NotFound
from stores.records import ContextKey, EventRow, Pin, Summary, ThreadRows
from stores.sqlite_rows import CONTEXT, EVENT, context_of, event_of, find_context, next_order

__all__ = ["find_event", "older", "pin", "put_summary", "thread"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

_PAGE_BYTES = 2 * 1024 * 1024


def find_event(db: sqlite3.Connection, key: ContextKey, id: str) -> EventRow | None:
    row = db.execute(
        f"SELECT {EVENT} FROM events WHERE cid = ? AND id = ?",
        (find_context(db, key), id),
    ).fetchone()
    return event_of(row) if row else None


def thread(db: sqlite3.Connection, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
    row = db.execute(f"SELECT cid, {CONTEXT} FROM contexts WHERE owner = ? AND id = ?", key).fetchone()
    if row is None:
        return None
    cid = row[0]
    summaries = db.execute(
        "SELECT turn_id, first_id, turns, text, ord FROM summaries WHERE cid = ? AND ord > ? ORDER BY ord",
        (cid, after or 0),
    )
    pins = db.execute("SELECT id, turn_id FROM pins WHERE cid = ? ORDER BY id", (cid,))
    rows, more = _older(db, cid, 1 << 62, limit) if after is None else _newer(db, cid, after, limit)
    return ThreadRows(
        context_of(row[1:]),
        rows,
        [
            Summary(turn_id=turn_id, first_id=first_id, turns=turns, text=text, order=order)
            for turn_id, first_id, turns, text, order in summaries
        ],
        [Pin(id, turn_id) for id, turn_id in pins],
        more,
    )


def older(db: sqlite3.Connection, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
    return _older(db, find_context(db, key), before, limit)


def _older(db: sqlite3.Connection, cid: int | None, before: int, limit: int) -> tuple[list[EventRow], bool]:
    query = f"SELECT {EVENT} FROM events WHERE cid = ? AND ord < ? ORDER BY ord DESC"
    rows, more = _page(db.execute(query, (cid, before)), limit)
    return rows[::-1], more


def _newer(db: sqlite3.Connection, cid: int, after: int, limit: int) -> tuple[list[EventRow], bool]:
    return _page(db.execute(f"SELECT {EVENT} FROM events WHERE cid = ? AND ord > ? ORDER BY ord", (cid, after)), limit)


def _page(found: sqlite3.Cursor, limit: int) -> tuple[list[EventRow], bool]:
    """The first `limit` events, fewer where they are large, and whether there are more."""
    rows: list[EventRow] = []
    size = 0
    for row in found:
        if len(rows) == limit or size > _PAGE_BYTES:
            return rows, True
        rows.append(event_of(row))
        size += len(rows[-1].body)
    return rows, False


def pin(db: sqlite3.Connection, cid: int, ids: Sequence[str]) -> None:
    """Pin these messages and no others. Raises NotFound where one of them is none."""
    db.execute("DELETE FROM pins WHERE cid = ?", (cid,))
    for id in dict.fromkeys(ids):
        pinned = db.execute(
            "INSERT INTO pins (cid, id, turn_id)"
            " SELECT cid, id, turn_id FROM events WHERE cid = ? AND id = ? AND type = 'message'",
            (cid, id),
        )
        if not pinned.rowcount:
            raise NotFound(id)


def put_summary(db: sqlite3.Connection, key: ContextKey, summary: Summary, born: int) -> bool:
    cid = find_context(db, key)
    if cid is None or db.execute("SELECT born FROM contexts WHERE cid = ?", (cid,)).fetchone()[0] != born:
        return False
    db.execute(
        "INSERT OR REPLACE INTO summaries (cid, turn_id, first_id, turns, text, ord) VALUES (?, ?, ?, ?, ?, ?)",
        (cid, summary.turn_id, summary.first_id, summary.turns, summary.text, next_order(db, cid)),
    )
    return True
