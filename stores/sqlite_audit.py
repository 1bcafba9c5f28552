"""Audit records, inside a transaction (ports.AuditStore)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from msgspec.structs import astuple

from stores.audit_pages import audit_page
from stores.audit_records import AuditPage, AuditQuery, AuditRecord

__all__ = ["add", "audits", "prune"]

# ruff: noqa: S608 - the SQL is put together from constants of this module, and names of fields

_COLUMNS = (
    "id, at, tenant, subject, kind, outcome, via, decided_by, tool, uri, context_id, turn_id, call_id, parameters_hash,"
    " parameters, seconds"
)
_FIELDS = AuditRecord.__struct_fields__
_INSERT = f"INSERT INTO audit ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))}) ON CONFLICT DO NOTHING"


def add(db: sqlite3.Connection, records: Iterable[AuditRecord]) -> None:
    db.executemany(_INSERT, [astuple(record) for record in records])


def audits(db: sqlite3.Connection, tenant: str, query: AuditQuery, below: tuple[float, str], limit: int) -> AuditPage:
    texts = query.texts
    given = "".join(f" AND {name} = ?" for name in texts)
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM audit WHERE tenant = ? AND at >= ? AND at < ? AND (at, id) < (?, ?){given}"
        " ORDER BY at DESC, id DESC LIMIT ?",
        (tenant, query.first, query.end, *below, *texts.values(), limit + 1),
    )
    return audit_page([_record(row) for row in rows], limit)


def prune(db: sqlite3.Connection, before: float, limit: int) -> int:
    query = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? LIMIT ?)"
    return db.execute(query, (before, limit)).rowcount


def _record(row: tuple[Any, ...]) -> AuditRecord:
    return AuditRecord(**dict(zip(_FIELDS, row, strict=True)))
