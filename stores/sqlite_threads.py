"""What a conversation is made of for a model, inside a transaction (ports.ContextStore)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.ports import NotFound
from stores.records import ContextKey, EventRow, Pin, Summary, ThreadRows
from stores.sqlite_rows import CONTEXT, EVENT, context_of, event_of, find_context, next_order

__all__ = ["find_event", "older", "pin", "put_summary", "thread"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only


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
    return ThreadRows(
        context_of(row[1:]),
        _older(db, cid, 1 << 62, limit) if after is None else _newer(db, cid, after, limit),
        [
            Summary(turn_id=turn_id, first_id=first_id, turns=turns, text=text, order=order)
            for turn_id, first_id, turns, text, order in summaries
        ],
        [Pin(id, turn_id) for id, turn_id in pins],
    )


def older(db: sqlite3.Connection, key: ContextKey, before: int, limit: int) -> list[EventRow]:
    return _older(db, find_context(db, key), before, limit)


def _older(db: sqlite3.Connection, cid: int | None, before: int, limit: int) -> list[EventRow]:
    rows = db.execute(
        f"SELECT {EVENT} FROM events WHERE cid = ? AND ord < ? ORDER BY ord DESC LIMIT ?", (cid, before, limit)
    )
    return [event_of(row) for row in rows][::-1]


def _newer(db: sqlite3.Connection, cid: int, after: int, limit: int) -> list[EventRow]:
    rows = db.execute(f"SELECT {EVENT} FROM events WHERE cid = ? AND ord > ? ORDER BY ord LIMIT ?", (cid, after, limit))
    return [event_of(row) for row in rows]


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


def put_summary(db: sqlite3.Connection, key: ContextKey, summary: Summary) -> bool:
    cid = find_context(db, key)
    if cid is None:
        return False
    db.execute(
        "INSERT OR REPLACE INTO summaries (cid, turn_id, first_id, turns, text, ord) VALUES (?, ?, ?, ?, ?, ?)",
        (cid, summary.turn_id, summary.first_id, summary.turns, summary.text, next_order(db, cid)),
    )
    return True
