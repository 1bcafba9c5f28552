"""Contexts themselves, inside a transaction (ports.ContextStore): made, listed, changed, deleted."""

from __future__ import annotations

from collections.abc import Sequence

from stores.list_pages import context_token
from stores.ports import NotFound
from stores.postgres_database import Connection
from stores.postgres_owner import forget_context as forget_in_sessions
from stores.postgres_rows import CONTEXT, HERE, context_of, create_context, storable
from stores.postgres_search import index_title
from stores.postgres_threads import pin
from stores.postgres_usage import forget_context as forget_in_usage
from stores.postgres_writing import Writing
from stores.records import ContextKey, ContextRecord, NewEvent

__all__ = ["contexts_after", "create", "delete", "get_context", "list_contexts", "update"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

_OF_A_CONTEXT = ("events", "turns", "calls", "cancels", "pins", "summaries", "remembered", "search_texts", "contexts")
_DELETE = ", ".join(f"{table}_gone AS (DELETE FROM {table} WHERE {HERE})" for table in _OF_A_CONTEXT)

_ROOM = 1024
"""How often an epoch may be raised before it meets the next that is drawn (`epochs` in the migrations)."""


async def create(
    db: Connection,
    there: bool,
    key: ContextKey,
    title: str | None,
    metadata: bytes | None,
    settings: bytes | None,
    now: float,
) -> bool:
    if there or not await create_context(db, key, now):
        return False
    if title is not None or metadata is not None or settings is not None:
        query = f"UPDATE contexts SET title = $3, metadata = $4, settings = $5 WHERE {HERE}"
        await db.execute(query, *key, None if title is None else storable(title), metadata, settings)
    if title:
        await index_title(db, *key, title)
    return True


async def get_context(db: Connection, key: ContextKey) -> ContextRecord | None:
    row = await db.fetchrow(f"SELECT {CONTEXT} FROM contexts WHERE {HERE}", *key)
    return context_of(row) if row is not None else None


async def list_contexts(
    db: Connection, owner: str, below: tuple[float, str], limit: int
) -> tuple[list[ContextRecord], str | None]:
    rows = await db.fetch(
        f"SELECT {CONTEXT} FROM contexts WHERE owner = $1 AND (updated_at, context_id) < ($2, $3)"
        " ORDER BY updated_at DESC, context_id DESC LIMIT $4",
        owner,
        *below,
        limit + 1,
    )
    records = [context_of(row) for row in rows[:limit]]
    return records, context_token(records[-1]) if len(rows) > limit else None


async def contexts_after(db: Connection, owner: str, id: str, limit: int) -> list[ContextRecord]:
    query = f"SELECT {CONTEXT} FROM contexts WHERE owner = $1 AND context_id > $2 ORDER BY context_id LIMIT $3"
    return [context_of(row) for row in await db.fetch(query, owner, id, limit)]


async def update(
    db: Connection,
    there: bool,
    key: ContextKey,
    title: str | None,
    metadata: bytes | None,
    event: NewEvent,
    *,
    settings: bytes | None,
    pins: Sequence[str] | None,
    if_untitled: bool,
    born: int | None,
    now: float,
) -> bool:
    row = await db.fetchrow(f"SELECT next_order, title, born FROM contexts WHERE {HERE}", *key) if there else None
    if row is None:
        raise NotFound(key.id)
    if (if_untitled and row["title"] is not None) or born not in (None, row["born"]):
        return False
    writing = Writing(key, row["next_order"])
    if title is not None:
        title = storable(title)
        writing.set_context("title = {}", title)
        await index_title(db, *key, title)
    if metadata is not None:
        writing.set_context("metadata = {}", metadata)
    if settings is not None:
        writing.set_context("settings = {}", settings)
    if pins is not None:
        await pin(db, key, pins)
    writing.store([event], now, given=True)
    await writing.run(db)
    return True


async def delete(db: Connection, there: bool, key: ContextKey) -> bool:
    await forget_in_sessions(db, key)
    if not there:
        return False
    raised = await db.fetchval(f"SELECT epoch - born FROM contexts WHERE {HERE}", *key)
    if raised >= _ROOM:
        draw = "SELECT max(nextval('epochs')) FROM generate_series(1, $1)"
        await db.execute(draw, raised // _ROOM + 1)
    await db.execute(f"WITH {_DELETE} SELECT", *key)
    await forget_in_usage(db, key)
    return True
