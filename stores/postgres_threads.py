"""A context's events as they are read (ports.ContextStore), its pins and summaries, inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from stores.ports import NotFound
from stores.postgres_database import Connection
from stores.postgres_rows import CONTEXT, EVENT, HERE, columns, context_of, event_of, storable
from stores.postgres_turns import unsequenced
from stores.postgres_writing import Writing
from stores.records import ContextKey, EventRow, History, Pin, Summary, ThreadRows

__all__ = ["find_event", "history", "older", "open_calls", "pin", "put_summary", "thread"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

_PAGE_BYTES = 2 * 1024 * 1024
_SUMMARY = "turn_id, first_id, turns, text, ord"
_ABOVE_ALL = 1 << 62


async def find_event(db: Connection, key: ContextKey, id: str) -> EventRow | None:
    row = await db.fetchrow(f"SELECT {EVENT} FROM events WHERE {HERE} AND id = $3", *key, id)
    return event_of(row) if row is not None else None


async def history(db: Connection, key: ContextKey, before: int | None, limit: int) -> History:
    rows = await db.fetch(
        f"SELECT {EVENT} FROM events WHERE {HERE} AND seq IS NOT NULL AND seq < $3 ORDER BY seq DESC LIMIT $4",
        *key,
        _ABOVE_ALL if before is None else before,
        limit + 1,
    )
    without = [row for row, _ in await unsequenced(db, key, None)] if before is None else []
    return History([event_of(row) for row in reversed(rows[:limit])], without, has_more=len(rows) > limit)


async def open_calls(db: Connection, key: ContextKey, seq: int) -> list[EventRow]:
    rows = await db.fetch(
        f"SELECT {EVENT} FROM events WHERE {HERE} AND id IN ("
        f" SELECT id FROM calls WHERE {HERE} AND NOT answered"
        f" UNION SELECT answers FROM events WHERE {HERE} AND seq IS NULL AND answers IS NOT NULL"
        f" UNION SELECT answers FROM events WHERE {HERE} AND seq > $3 AND answers IS NOT NULL"
        ") ORDER BY ord",
        *key,
        seq,
    )
    return [event_of(row) for row in rows]


async def thread(db: Connection, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
    row = await db.fetchrow(
        f"SELECT {columns(CONTEXT, 'c')},"
        f" ARRAY(SELECT ROW({_SUMMARY}) FROM summaries WHERE {HERE} AND ord > $3 ORDER BY ord),"
        f" ARRAY(SELECT ROW(id, turn_id) FROM pins WHERE {HERE} ORDER BY id)"
        f" FROM contexts c WHERE {HERE}",
        *key,
        after or 0,
    )
    if row is None:
        return None
    *context, summaries, pins = row
    events, more = await (older(db, key, _ABOVE_ALL, limit) if after is None else _newer(db, key, after, limit))
    return ThreadRows(
        context_of(context),
        events,
        [_summary_of(summary) for summary in summaries],
        [Pin(id, turn_id) for id, turn_id in pins],
        more,
    )


def _summary_of(row: Record) -> Summary:
    turn_id, first_id, turns, text, order = row
    return Summary(turn_id=turn_id, first_id=first_id, turns=turns, text=text, order=order)


async def older(db: Connection, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
    rows, more = await _page(db, key, "ord < $3 ORDER BY ord DESC", before, limit)
    return rows[::-1], more


async def _newer(db: Connection, key: ContextKey, after: int, limit: int) -> tuple[list[EventRow], bool]:
    return await _page(db, key, "ord > $3 ORDER BY ord", after, limit)


async def _page(db: Connection, key: ContextKey, which: str, place: int, limit: int) -> tuple[list[EventRow], bool]:
    """The first `limit` events, fewer where they are large, and whether there are more."""
    # Large bodies lie apart: their lengths are added up without reading them.
    order = which.removeprefix("ord < $3 ").removeprefix("ord > $3 ")
    rows = await db.fetch(
        f"SELECT {EVENT}, found FROM (SELECT {EVENT}, count(*) OVER () AS found,"
        f" sum(octet_length(body)) OVER ({order}) - octet_length(body) AS before"
        f" FROM (SELECT {EVENT} FROM events WHERE {HERE} AND {which} LIMIT $4) AS page) AS summed"
        f" WHERE before <= $5 {order}",
        *key,
        place,
        limit + 1,
        _PAGE_BYTES,
    )
    kept = rows[:limit]
    return [event_of(tuple(row)[:-1]) for row in kept], bool(rows) and rows[0]["found"] > len(kept)


async def pin(db: Connection, key: ContextKey, ids: Sequence[str]) -> None:
    """Pin these messages and no others. Raises NotFound where one of them is none."""
    await db.execute(f"DELETE FROM pins WHERE {HERE}", *key)
    wanted = list(dict.fromkeys(ids))
    pinned = await db.fetch(
        "INSERT INTO pins (owner, context_id, id, turn_id) SELECT owner, context_id, id, turn_id FROM events"
        f" WHERE {HERE} AND id = ANY($3::text[]) AND type = 'message' RETURNING id",
        *key,
        wanted,
    )
    missing = set(wanted) - {row["id"] for row in pinned}
    if missing:
        raise NotFound(min(missing))


async def put_summary(db: Connection, key: ContextKey, summary: Summary, born: int) -> bool:
    next_order = await db.fetchval(f"SELECT next_order FROM contexts WHERE {HERE} AND born = $3", *key, born)
    if next_order is None:
        return False
    writing = Writing(key, next_order)
    writing.add(
        f"INSERT INTO summaries (owner, context_id, {_SUMMARY}) VALUES ($1, $2, {{}}, {{}}, {{}}, {{}}, {{}})"
        " ON CONFLICT (owner, context_id, turn_id) DO UPDATE SET"
        " first_id = excluded.first_id, turns = excluded.turns, text = excluded.text, ord = excluded.ord",
        summary.turn_id,
        summary.first_id,
        summary.turns,
        storable(summary.text),
        writing.order(),
    )
    await writing.run(db)
    return True
