"""Secrets that are kept for their owners, inside a transaction (ports.SecretStore)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from stores.records import SecretRecord

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["delete_secret", "delete_secrets", "get_secret", "put_secret", "secrets_of"]

_VERSION_BITS = 62


async def get_secret(db: Connection, owner: str, name: str) -> SecretRecord | None:
    if "\0" in name:
        return None  # PostgreSQL would not even look
    row = await db.fetchrow("SELECT name, value, version FROM secrets WHERE owner = $1 AND name = $2", owner, name)
    return SecretRecord(*row) if row is not None else None


async def put_secret(db: Connection, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
    # Random, so that one that was deleted is never met again.
    version = secrets.randbits(_VERSION_BITS)
    if expected is None:
        return await db.fetchval(
            "INSERT INTO secrets (owner, name, value, version) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
            " RETURNING version",
            owner,
            name,
            value,
            version,
        )
    return await db.fetchval(
        "UPDATE secrets SET value = $3, version = $4 WHERE owner = $1 AND name = $2 AND version = $5 RETURNING version",
        owner,
        name,
        value,
        version,
        expected,
    )


async def delete_secret(db: Connection, owner: str, name: str) -> bool:
    query = "DELETE FROM secrets WHERE owner = $1 AND name = $2 RETURNING true"
    return await db.fetchval(query, owner, name) is not None


async def secrets_of(db: Connection, owner: str) -> list[SecretRecord]:
    rows = await db.fetch("SELECT name, value, version FROM secrets WHERE owner = $1 ORDER BY name", owner)
    return [SecretRecord(*row) for row in rows]


async def delete_secrets(db: Connection, owner: str) -> int:
    status = await db.execute("DELETE FROM secrets WHERE owner = $1", owner)
    return int(status.removeprefix("DELETE "))
