"""All that one owner has, inside a transaction (ports.OwnerStore)."""

from __future__ import annotations

import sqlite3

from stores.records import ContextKey, EventRow, History
from stores.sqlite_rows import EVENT, event_of, find_context

__all__ = ["delete_sessions", "events_after", "forget_context", "owe_scrub"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only


def events_after(db: sqlite3.Connection, key: ContextKey, seq: int, limit: int) -> History:
    cid = find_context(db, key)
    cursor = db.execute(f"SELECT {EVENT} FROM events WHERE cid = ? AND seq > ? ORDER BY seq", (cid, seq))
    rows: list[EventRow] = []
    size = 0
    for row in cursor:
        if size > limit:
            cursor.close()
            return History(rows, [], has_more=True)
        rows.append(event_of(row))
        size += len(rows[-1].body)
    without = db.execute(f"SELECT {EVENT} FROM events WHERE cid = ? AND seq IS NULL ORDER BY ord", (cid,))
    return History(rows, [event_of(row) for row in without], has_more=False)


def forget_context(db: sqlite3.Connection, key: ContextKey) -> None:
    """What the deletion of a context takes, whether or not it is there: its place in the lists of its owner's
    sessions."""
    forgotten = db.execute(
        "UPDATE sessions SET contexts = (SELECT json_group_array(value) FROM json_each(contexts) WHERE value != ?2)"
        " WHERE owner = ?1 AND EXISTS (SELECT 1 FROM json_each(contexts) WHERE value = ?2)",
        key,
    )
    if forgotten.rowcount:
        owe_scrub(db)


def delete_sessions(db: sqlite3.Connection, owner: str) -> int:
    deleted = db.execute("DELETE FROM sessions WHERE owner = ?", (owner,)).rowcount
    if deleted:
        owe_scrub(db)
    return deleted


def owe_scrub(db: sqlite3.Connection) -> None:
    """Note that something was deleted which copies in the file may be left of."""
    db.execute("UPDATE slack SET deletions = deletions + 1")
