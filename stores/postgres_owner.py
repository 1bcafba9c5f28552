"""All that one owner has, inside a transaction (ports.OwnerStore)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores.postgres_rows import EVENT, HERE, event_of
from stores.postgres_sessions import SESSION, session_of
from stores.records import ContextKey, EventRow, History, SessionRecord

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["all_sessions", "delete_sessions", "events_after", "forget_context"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

# How many rows are looked at at once.
_ROWS = 1000
_LOCK = "SELECT count(*) FROM (SELECT 1 FROM sessions WHERE owner = $1 ORDER BY id FOR UPDATE) locked"
"""All who change several of an owner's sessions lock them in the same order first."""


async def events_after(db: Connection, key: ContextKey, seq: int, limit: int) -> History:
    """In a transaction that reads one state of the database."""
    rows: list[EventRow] = []
    size = 0
    while True:
        page = await db.fetch(
            f"SELECT {EVENT}, more FROM (SELECT {EVENT}, lead(seq) OVER (ORDER BY seq) IS NOT NULL AS more,"
            " sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS before"
            f" FROM (SELECT {EVENT} FROM events WHERE {HERE} AND seq > $3"
            "  ORDER BY seq LIMIT $4) following) summed WHERE before <= $5 ORDER BY seq",
            *key,
            rows[-1].seq if rows else seq,
            _ROWS + 1,
            limit - size,
        )
        more = len(page) > _ROWS or (bool(page) and page[-1]["more"])
        rows += [event_of(tuple(row)[:-1]) for row in page[:_ROWS]]
        size = sum(len(row.body) for row in rows)
        if not more:
            break
        if size > limit:
            return History(rows, [], has_more=True)
    without = await db.fetch(f"SELECT {EVENT} FROM events WHERE {HERE} AND seq IS NULL ORDER BY ord", *key)
    return History(rows, [event_of(row) for row in without], has_more=False)


async def all_sessions(db: Connection, owner: str) -> list[SessionRecord]:
    rows = await db.fetch(f"SELECT {SESSION} FROM sessions WHERE owner = $1 ORDER BY put DESC", owner)
    return [session_of(row) for row in rows]


async def delete_sessions(db: Connection, owner: str) -> int:
    await db.execute(_LOCK, owner)
    status = await db.execute("DELETE FROM sessions WHERE owner = $1", owner)
    return int(status.removeprefix("DELETE "))


async def forget_context(db: Connection, key: ContextKey) -> None:
    """What else the deletion of a context takes: its place in the lists of its owner's sessions."""
    await db.execute(_LOCK, key.owner)
    await db.execute(
        "UPDATE sessions SET contexts = array_remove(contexts, $2) WHERE owner = $1 AND $2 = ANY (contexts)", *key
    )
