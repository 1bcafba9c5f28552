"""Sessions, inside a transaction (ports.SessionStore).

What names a session by its id alone works for all owners at once; `sessions_of` is for the owner of the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncpg import Record

from stores.records import SessionRecord

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = [
    "SESSION",
    "delete_expired",
    "get_session",
    "leave_session",
    "put_session",
    "session_of",
    "sessions_of",
    "take_session",
]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

SESSION = "id, owner, attempt, expires_at, tools, contexts, holder"
_AT_ONCE = 10_000
_STORE = (
    f"INSERT INTO sessions ({SESSION}) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET"
    " owner = excluded.owner, attempt = excluded.attempt, expires_at = excluded.expires_at,"
    " tools = excluded.tools, contexts = excluded.contexts, holder = excluded.holder"
)
# `excluded.put` is a new number, above that of every one before.
_TAKE = f"{_STORE}, put = excluded.put"


async def take_session(db: Connection, session: SessionRecord, now: float, gone: str | None) -> bool:
    # One statement: of two instances that take it at once the second waits, and then sees what the first one stored.
    taken = await db.fetchval(
        f"{_TAKE} WHERE sessions.attempt <= excluded.attempt OR sessions.holder IS NULL OR sessions.holder = $8"
        " OR sessions.expires_at <= $9 RETURNING true",
        *_values(session),
        gone,
        now,
    )
    return taken is not None


async def put_session(db: Connection, session: SessionRecord) -> bool:
    put = await db.fetchval(
        f"{_STORE} WHERE sessions.holder IS NULL OR sessions.holder = excluded.holder RETURNING true",
        *_values(session),
    )
    return put is not None


async def leave_session(db: Connection, id: str, holder: str) -> None:
    await db.execute("UPDATE sessions SET holder = NULL WHERE id = $1 AND holder = $2", id, holder)


async def get_session(db: Connection, id: str, now: float) -> SessionRecord | None:
    row = await db.fetchrow(f"SELECT {SESSION} FROM sessions WHERE id = $1 AND expires_at > $2", id, now)
    return session_of(row) if row is not None else None


async def sessions_of(db: Connection, owner: str, now: float) -> list[SessionRecord]:
    rows = await db.fetch(
        f"SELECT {SESSION} FROM sessions WHERE owner = $1 AND tools <> '[]'::bytea AND expires_at > $2"
        " ORDER BY put DESC",
        owner,
        now,
    )
    return [session_of(row) for row in rows]


async def delete_expired(db: Connection, now: float) -> int:
    """Delete 10,000 at most: what more there are is left to the next call. A row that somebody else holds, who takes
    the session anew or deletes it too, is passed over."""
    status = await db.execute(
        "DELETE FROM sessions WHERE id IN"
        " (SELECT id FROM sessions WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
        now,
        _AT_ONCE,
    )
    return int(status.removeprefix("DELETE "))


def session_of(row: Record) -> SessionRecord:
    id, owner, attempt, expires_at, tools, contexts, holder = row
    return SessionRecord(
        id=id,
        owner=owner,
        attempt=attempt,
        expires_at=expires_at,
        tools=tools,
        contexts=tuple(contexts),
        holder=holder,
    )


def _values(session: SessionRecord) -> tuple[object, ...]:
    contexts = list(session.contexts)
    return session.id, session.owner, session.attempt, session.expires_at, session.tools, contexts, session.holder
