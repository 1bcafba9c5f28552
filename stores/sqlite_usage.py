"""What model calls used, added up, inside a transaction (ports.UsageStore)."""

from __future__ import annotations

import sqlite3

from stores.records import ContextKey, NewUsage, UsageBy, UsagePage, UsageRow

__all__ = ["add_once", "add_to_context", "forget_context", "usage"]

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
    f"{name} = {name} + excluded.{name}" for name in _SUMS
)
_INSERT = f"INSERT INTO usage ({_COLUMNS}) VALUES ({', '.join('?' * 14)}) {_ADD}"
_TOTAL = ", ".join(f"coalesce(sum({name}), 0)" for name in _SUMS)
_REMEMBERED = "-8 days"


def add_to_context(db: sqlite3.Connection, cid: int, usage: NewUsage) -> None:
    """Add to the sums of a context that is there."""
    owner, id = db.execute("SELECT owner, id FROM contexts WHERE cid = ?", (cid,)).fetchone()
    _add(db, owner, id, usage)


def add_once(db: sqlite3.Connection, key: ContextKey, id: str, usage: NewUsage) -> bool:
    added = db.execute(
        "INSERT INTO usage_ids (owner, id, day) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key.owner, id, usage.day)
    )
    if not added.rowcount:
        return False
    db.execute("DELETE FROM usage_ids WHERE day < date(?, ?)", (usage.day, _REMEMBERED))
    there = db.execute("SELECT 1 FROM contexts WHERE owner = ? AND id = ?", key).fetchone()
    _add(db, key.owner, key.id if there else "", usage)
    return True


def _add(db: sqlite3.Connection, owner: str, context: str, usage: NewUsage) -> None:
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
    db.execute(_INSERT, (owner, usage.tenant, usage.subject, usage.day, context, usage.model, *sums))


def forget_context(db: sqlite3.Connection, key: ContextKey) -> None:
    """Keep the sums of a context, and not which one it was."""
    db.execute(
        f"INSERT INTO usage ({_COLUMNS}) SELECT owner, tenant, subject, day, '', model, {', '.join(_SUMS)}"
        f" FROM usage WHERE owner = ? AND context = ? {_ADD}",
        key,
    )
    db.execute("DELETE FROM usage WHERE owner = ? AND context = ?", key)


def usage(
    db: sqlite3.Connection,
    tenant: str,
    owner: str | None,
    days: tuple[str, str],
    by: UsageBy,
    after: str | None,
    limit: int,
) -> UsagePage:
    whose, who = ("tenant = ?", tenant) if owner is None else ("owner = ?", owner)
    where = f"FROM usage WHERE {whose} AND day BETWEEN ? AND ?"
    rows = db.execute(
        f"SELECT {by}, {_TOTAL} {where} AND (?4 IS NULL OR {by} > ?4) GROUP BY {by} ORDER BY {by} LIMIT ?5",
        (who, *days, after, limit + 1),
    ).fetchall()
    total = db.execute(f"SELECT '', {_TOTAL} {where}", (who, *days)).fetchone()
    return UsagePage([_row(row) for row in rows[:limit]], len(rows) > limit, _row(total))


def _row(row: tuple[str, int, int, int, int, int, int, int, int]) -> UsageRow:
    name, *sums = row
    return UsageRow(name=name, **dict(zip(_SUMS, sums, strict=True)))
