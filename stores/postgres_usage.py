"""What model calls used, added up, inside a transaction (ports.UsageStore).

Rows are locked in this order, so that no two transactions wait for each other: the context's in `contexts`, then
`usage_ids`, then `usage`. A context's sums are changed by whoever holds its row, one sum of them by `add_once` as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncpg import Record

from stores.records import ContextKey, NewUsage, UsageBy, UsagePage, UsageRow

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["add_once", "add_to_context", "forget_context", "forget_ids", "usage"]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

_SUMS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cached_responses",
    "steps",
    "estimated_steps",
    "cost",
)
_COLUMNS = f"owner, tenant, subject, day, context, model, {', '.join(_SUMS)}"
_ADD = "ON CONFLICT (owner, day, context, model) DO UPDATE SET " + ", ".join(
    f"{name} = usage.{name} + excluded.{name}" for name in _SUMS
)
_INSERT = f"INSERT INTO usage ({_COLUMNS}) VALUES ({', '.join(f'${place}' for place in range(1, 15))}) {_ADD}"
_TOTAL = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in _SUMS)
_NAMES: dict[UsageBy, str] = {"day": "day", "context": "context", "model": "model", "subject": "subject"}
_REMEMBERED = "interval '8 days'"
_AT_ONCE = 1000


async def add_to_context(db: Connection, owner: str, context_id: str, usage: NewUsage) -> None:
    """Add to the sums of a context that is there, whose row the transaction holds."""
    await _add(db, owner, context_id, usage)


async def add_once(db: Connection, key: ContextKey, id: str, usage: NewUsage) -> bool:
    # Held until the sum is added: a deletion that comes now finds the sum, or this finds no context.
    query = "SELECT true FROM contexts WHERE owner = $1 AND context_id = $2 FOR KEY SHARE"
    there = await db.fetchval(query, *key)
    added = await db.fetchval(
        "INSERT INTO usage_ids (owner, id, day) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true",
        key.owner,
        id,
        usage.day,
    )
    if added is None:
        return False
    await forget_ids(db, usage.day)
    await _add(db, key.owner, key.id if there else "", usage)
    return True


async def forget_ids(db: Connection, day: str) -> None:
    """Forget the ids of model calls that ended more than a week before `day`, of all whom the transaction sees: 1,000
    at most, and none that somebody else forgets at the same time."""
    await db.execute(
        "DELETE FROM usage_ids WHERE (owner, id) IN (SELECT owner, id FROM usage_ids"
        f" WHERE day < to_char($1::text::date - {_REMEMBERED}, 'YYYY-MM-DD') LIMIT $2 FOR UPDATE SKIP LOCKED)",
        day,
        _AT_ONCE,
    )


async def _add(db: Connection, owner: str, context: str, usage: NewUsage) -> None:
    sums = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        usage.cached_responses,
        1,
        int(usage.estimated),
        usage.cost,
    )
    await db.execute(_INSERT, owner, usage.tenant, usage.subject, usage.day, context, usage.model, *sums)


async def forget_context(db: Connection, key: ContextKey) -> None:
    """Keep the sums of a context, whose row the transaction holds, and not which one it was."""
    # In the same order whoever does it: two of an owner's contexts may be deleted at once, and share these rows.
    await db.execute(
        f"INSERT INTO usage ({_COLUMNS}) SELECT owner, tenant, subject, day, '', model, {', '.join(_SUMS)}"
        f" FROM usage WHERE owner = $1 AND context = $2 ORDER BY day, model {_ADD}",
        *key,
    )
    await db.execute("DELETE FROM usage WHERE owner = $1 AND context = $2", *key)


async def usage(
    db: Connection,
    tenant: str,
    owner: str | None,
    days: tuple[str, str],
    by: UsageBy,
    after: str | None,
    limit: int,
) -> UsagePage:
    """Best under a snapshot of its own: the total is read after the rows. With no `owner` it is for all whom the
    transaction sees."""
    name = _NAMES[by]
    whose, who = ("tenant = $1", tenant) if owner is None else ("owner = $1", owner)
    where = f"FROM usage WHERE {whose} AND day BETWEEN $2 AND $3"
    # No name holds a NUL, and Postgres takes none; what comes after one changes nothing about which names are above.
    above = after.partition("\0")[0] if after is not None else None
    rows = await db.fetch(
        f"SELECT {name}, {_TOTAL} {where} AND ($4::text IS NULL OR {name} > $4) GROUP BY {name} ORDER BY {name}"
        " LIMIT $5",
        who,
        *days,
        above,
        limit + 1,
    )
    (total,) = await db.fetch(f"SELECT '', {_TOTAL} {where}", who, *days)
    return UsagePage([_row(row) for row in rows[:limit]], len(rows) > limit, _row(total))


def _row(row: Record) -> UsageRow:
    name, *sums = row
    return UsageRow(name=name, **dict(zip(_SUMS, sums, strict=True)))
