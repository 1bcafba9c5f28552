"""API keys, inside a transaction (ports.KeyStore, and OwnerStore for `keys_of`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from stores.records import KeyRecord

__all__ = ["add_key", "find_key", "keys_of", "list_keys", "revoke_key"]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

_KEY = "id, digest, tenant, subject, role, created_at, revoked_at"


def add_key(db: sqlite3.Connection, key: KeyRecord) -> None:
    db.execute(f"INSERT INTO keys ({_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(key))


def find_key(db: sqlite3.Connection, digest: bytes) -> KeyRecord | None:
    row = db.execute(f"SELECT {_KEY} FROM keys WHERE digest = ?", (digest,)).fetchone()
    return _key_of(row) if row else None


def list_keys(db: sqlite3.Connection) -> list[KeyRecord]:
    return [_key_of(row) for row in db.execute(f"SELECT {_KEY} FROM keys ORDER BY created_at, id")]


def keys_of(db: sqlite3.Connection, tenant: str, subject: str) -> list[KeyRecord]:
    query = f"SELECT {_KEY} FROM keys WHERE tenant = ? AND subject = ? ORDER BY created_at, id"
    return [_key_of(row) for row in db.execute(query, (tenant, subject))]


def revoke_key(db: sqlite3.Connection, id: str, now: float) -> bool:
    query = "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
    return db.execute(query, (now, id)).rowcount > 0


def _key_of(row: Sequence[Any]) -> KeyRecord:
    id, digest, tenant, subject, role, created_at, revoked_at = row
    return KeyRecord(
        id=id,
        digest=digest,
        tenant=tenant,
        subject=subject,
        role=role,
        created_at=created_at,
        revoked_at=revoked_at,
    )
