"""Sessions, inside a transaction (ports.SessionStore)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from stores.records import SessionRecord

__all__ = [
    "all_sessions",
    "delete_expired",
    "get_session",
    "leave_session",
    "put_session",
    "sessions_of",
    "take_session",
]

# ruff: noqa: S608 - the SQL is put together from constants of this module only

_SESSION = "id, owner, attempt, expires_at, tools, contexts, holder"
# REPLACE gives the row a new number, the highest there ever was; an update leaves it where it is.
_TAKE = f"INSERT OR REPLACE INTO sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_PUT = (
    f"INSERT INTO sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " owner = excluded.owner, attempt = excluded.attempt, expires_at = excluded.expires_at, tools = excluded.tools,"
    " contexts = excluded.contexts, holder = excluded.holder"
)


def take_session(db: sqlite3.Connection, session: SessionRecord, now: float, gone: str | None) -> bool:
    held = db.execute(
        "SELECT 1 FROM sessions WHERE id = ? AND attempt > ? AND holder IS NOT NULL AND holder IS NOT ?"
        " AND expires_at > ?",
        (session.id, session.attempt, gone, now),
    ).fetchone()
    return held is None and _store(db, _TAKE, session)


def put_session(db: sqlite3.Connection, session: SessionRecord) -> bool:
    held = db.execute(
        "SELECT 1 FROM sessions WHERE id = ? AND holder IS NOT NULL AND holder IS NOT ?", (session.id, session.holder)
    ).fetchone()
    return held is None and _store(db, _PUT, session)


def _store(db: sqlite3.Connection, statement: str, session: SessionRecord) -> bool:
    contexts = msgspec.json.encode(session.contexts).decode()
    values = (session.id, session.owner, session.attempt, session.expires_at, session.tools, contexts, session.holder)
    db.execute(statement, values)
    return True


def leave_session(db: sqlite3.Connection, id: str, holder: str) -> None:
    db.execute("UPDATE sessions SET holder = NULL WHERE id = ? AND holder = ?", (id, holder))


def get_session(db: sqlite3.Connection, id: str, now: float) -> SessionRecord | None:
    row = db.execute(f"SELECT {_SESSION} FROM sessions WHERE id = ? AND expires_at > ?", (id, now)).fetchone()
    return _session_of(row) if row else None


def sessions_of(db: sqlite3.Connection, owner: str, now: float) -> list[SessionRecord]:
    query = f"SELECT {_SESSION} FROM sessions WHERE owner = ? AND tools != X'5B5D' AND expires_at > ? ORDER BY put DESC"
    return [_session_of(row) for row in db.execute(query, (owner, now))]


def all_sessions(db: sqlite3.Connection, owner: str) -> list[SessionRecord]:
    query = f"SELECT {_SESSION} FROM sessions WHERE owner = ? ORDER BY put DESC"
    return [_session_of(row) for row in db.execute(query, (owner,))]


def delete_expired(db: sqlite3.Connection, now: float) -> int:
    return db.execute("DELETE FROM sessions WHERE expires_at <= ?", (now,)).rowcount


def _session_of(row: Sequence[Any]) -> SessionRecord:
    id, owner, attempt, expires_at, tools, contexts, holder = row
    return SessionRecord(
        id=id,
        owner=owner,
        attempt=attempt,
        expires_at=expires_at,
        tools=tools,
        contexts=tuple(msgspec.json.decode(contexts, type=list[str])),
        holder=holder,
    )
