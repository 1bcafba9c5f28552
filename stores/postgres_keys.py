"""API keys, inside a transaction for the whole instance (ports.KeyStore, and OwnerStore for `keys_of`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from asyncpg import Record

from stores.records import KeyRecord

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["add_key", "find_key", "keys_of", "list_keys", "revoke_key"]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

_KEY = "id, digest, tenant, subject, role, created_at, revoked_at"


async def add_key(db: Connection, key: KeyRecord) -> None:
    query = f"INSERT INTO keys ({_KEY}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
    await db.execute(query, *msgspec.structs.astuple(key))


async def find_key(db: Connection, digest: bytes) -> KeyRecord | None:
    row = await db.fetchrow(f"SELECT {_KEY} FROM keys WHERE digest = $1", digest)
    return _key_of(row) if row is not None else None


async def list_keys(db: Connection) -> list[KeyRecord]:
    return [_key_of(row) for row in await db.fetch(f"SELECT {_KEY} FROM keys ORDER BY created_at, id")]


async def keys_of(db: Connection, tenant: str, subject: str) -> list[KeyRecord]:
    query = f"SELECT {_KEY} FROM keys WHERE tenant = $1 AND subject = $2 ORDER BY created_at, id"
    return [_key_of(row) for row in await db.fetch(query, tenant, subject)]


async def revoke_key(db: Connection, id: str, now: float) -> bool:
    query = "UPDATE keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING true"
    return await db.fetchval(query, id, now) is not None


def _key_of(row: Record) -> KeyRecord:
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
