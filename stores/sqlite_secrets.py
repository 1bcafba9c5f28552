"""Secrets that are kept for their owners, inside a transaction (ports.SecretStore)."""

from __future__ import annotations

import secrets
import sqlite3

from stores.records import SecretRecord
from stores.sqlite_owner import owe_scrub

__all__ = ["delete_secret", "delete_secrets", "get_secret", "put_secret", "secrets_of"]

_VERSION_BITS = 62


def get_secret(db: sqlite3.Connection, owner: str, name: str) -> SecretRecord | None:
    query = "SELECT name, value, version FROM secrets WHERE owner = ? AND name = ?"
    row = db.execute(query, (owner, name)).fetchone()
    return SecretRecord(*row) if row is not None else None


def put_secret(db: sqlite3.Connection, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
    # Random, so that one that was deleted is never met again.
    version = secrets.randbits(_VERSION_BITS)
    if expected is None:
        query = "INSERT INTO secrets (owner, name, value, version) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        put = db.execute(query, (owner, name, value, version))
    else:
        query = "UPDATE secrets SET value = ?, version = ? WHERE owner = ? AND name = ? AND version = ?"
        put = db.execute(query, (value, version, owner, name, expected))
    return version if put.rowcount else None


def delete_secret(db: sqlite3.Connection, owner: str, name: str) -> bool:
    deleted = db.execute("DELETE FROM secrets WHERE owner = ? AND name = ?", (owner, name)).rowcount
    if deleted:
        owe_scrub(db)
    return bool(deleted)


def secrets_of(db: sqlite3.Connection, owner: str) -> list[SecretRecord]:
    query = "SELECT name, value, version FROM secrets WHERE owner = ? ORDER BY name"
    return [SecretRecord(*row) for row in db.execute(query, (owner,))]


def delete_secrets(db: sqlite3.Connection, owner: str) -> int:
    deleted = db.execute("DELETE FROM secrets WHERE owner = ?", (owner,)).rowcount
    if deleted:
        owe_scrub(db)
    return deleted
