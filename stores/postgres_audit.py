"""Audit records, inside a transaction (ports.AuditStore)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncpg import Record
from msgspec.structs import astuple

from stores.audit_pages import audit_page
from stores.audit_records import AuditPage, AuditQuery, AuditRecord

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["ADDED", "add", "added_columns", "audits", "prune", "whole_tenant"]

# ruff: noqa: S608 - the SQL is put together from constants of this module, and names of fields

_COLUMNS = (
    "id, at, tenant, subject, kind, outcome, via, decided_by, tool, uri, context_id, turn_id, call_id, parameters_hash,"
    " parameters, seconds"
)
_FIELDS = AuditRecord.__struct_fields__
_TYPES = ("text", "float8", *["text"] * 12, "bytea", "float8")
ADDED = (
    f"INSERT INTO audit (owner, {_COLUMNS}) SELECT $1, new.* FROM"
    f" unnest({', '.join(f'{{}}::{kind}[]' for kind in _TYPES)}) AS new ON CONFLICT DO NOTHING"
)
"""A statement with `{}` in the places of `added_columns`; its `$1` names the owner."""
_ADD = ADDED.format(*(f"${place}" for place in range(2, 2 + len(_TYPES))))


def whole_tenant(tenant: str) -> str:
    """In place of an owner: all owners of a tenant, whose records alone it shows. No owner's name has a colon."""
    return f"tenant:{tenant}"


def added_columns(records: Sequence[AuditRecord]) -> list[list[object]]:
    return [list(column) for column in zip(*map(astuple, records), strict=True)]


async def add(db: Connection, owner: str, records: Sequence[AuditRecord]) -> None:
    """In a transaction of that owner."""
    if records:
        await db.execute(_ADD, owner, *added_columns(records))


async def audits(db: Connection, tenant: str, query: AuditQuery, below: tuple[float, str], limit: int) -> AuditPage:
    """In a transaction for that tenant."""
    texts = query.texts
    if any("\0" in text for text in texts.values()):
        return AuditPage([], None)  # PostgreSQL would not even look
    given = "".join(f" AND {name} = ${place}" for place, name in enumerate(texts, 7))
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM audit WHERE tenant = $1 AND at >= $2 AND at < $3 AND (at, id) < ($4, $5){given}"
        " ORDER BY at DESC, id DESC LIMIT $6",
        tenant,
        query.first,
        query.end,
        *below,
        limit + 1,
        *texts.values(),
    )
    return audit_page([_record(row) for row in rows], limit)


async def prune(db: Connection, before: float, limit: int) -> int:
    """In a transaction for all owners."""
    query = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 ORDER BY at, id LIMIT $2)"
    status = await db.execute(query, before, limit)
    return int(status.removeprefix("DELETE "))


def _record(row: Record) -> AuditRecord:
    return AuditRecord(**dict(zip(_FIELDS, row, strict=True)))
