"""Contexts, events, turns, sessions and keys in one SQLite file: the store of a single machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection

from protocol.frames import WhenBusy
from stores import sqlite_audit as ledger
from stores import sqlite_clients as clients
from stores import sqlite_keys as keys
from stores import sqlite_owner as owners
from stores import sqlite_search as index
from stores import sqlite_secrets as sealed
from stores import sqlite_sessions as sessions
from stores import sqlite_threads as threads
from stores import sqlite_turns as turns
from stores import sqlite_usage as accounts
from stores.audit_records import AuditPage, AuditQuery, AuditRecord
from stores.list_pages import context_token, page_place
from stores.ports import Busy
from stores.records import (
    Accepted,
    Call,
    CancelRequest,
    Claimed,
    ContextKey,
    ContextRecord,
    EventRow,
    History,
    KeyRecord,
    NewEvent,
    NewTurn,
    NewUsage,
    Recorded,
    Remembered,
    SearchHit,
    SecretRecord,
    Sender,
    SessionRecord,
    Summary,
    ThreadRows,
    Turn,
    TurnRows,
    UsageBy,
    UsagePage,
    Written,
)
from stores.search_text import parse_query
from stores.sqlite_file import SqliteFile
from stores.sqlite_rows import CONTEXT, context_id, context_of, create_context, find_context, insert_event

__all__ = ["SqliteStore"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only


class SqliteStore:
    """Implements all of connect.Store. `clock` is in seconds since 1970.

    SQL runs in two threads: one that writes and commits all that came up meanwhile at once, one that reads.
    """

    def __init__(self, file: SqliteFile, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> SqliteStore:
        """Open the file, or make it. Raises StoreUrlError, Unavailable."""
        return cls(await asyncio.to_thread(SqliteFile, path), clock)

    async def check(self) -> None:
        await self._file.read(lambda db: db.execute("SELECT floor FROM epoch_floor").fetchone())

    async def close(self) -> None:
        await self._file.close()

    # -- contexts

    async def create_context(
        self, key: ContextKey, title: str | None, metadata: bytes | None, settings: bytes | None = None
    ) -> bool:
        def work(db: Connection) -> bool:
            if find_context(db, key) is not None:
                return False
            cid = create_context(db, key, self._clock())
            db.execute(
                "UPDATE contexts SET title = ?, metadata = ?, settings = ? WHERE cid = ?",
                (title, metadata, settings, cid),
            )
            if title:
                index.index_title(db, cid, title)
            return True

        return await self._file.write(work)

    async def get_context(self, key: ContextKey) -> ContextRecord | None:
        query = f"SELECT {CONTEXT} FROM contexts WHERE owner = ? AND id = ?"
        row = await self._file.read(lambda db: db.execute(query, key).fetchone())
        return context_of(row) if row else None

    async def list_contexts(self, owner: str, after: str | None, limit: int) -> tuple[list[ContextRecord], str | None]:
        below = page_place(after)
        query = (
            f"SELECT {CONTEXT} FROM contexts WHERE owner = ? AND (updated_at, id) < (?, ?)"
            " ORDER BY updated_at DESC, id DESC LIMIT ?"
        )
        rows = await self._file.read(lambda db: db.execute(query, (owner, *below, limit + 1)).fetchall())
        records = [context_of(row) for row in rows[:limit]]
        return records, context_token(records[-1]) if len(rows) > limit else None

    async def update_context(
        self,
        key: ContextKey,
        title: str | None,
        metadata: bytes | None,
        event: NewEvent,
        *,
        settings: bytes | None = None,
        pins: Sequence[str] | None = None,
        if_untitled: bool = False,
        born: int | None = None,
    ) -> bool:
        def work(db: Connection) -> bool:
            cid = context_id(db, key)
            updated = db.execute(
                "UPDATE contexts SET title = coalesce(?, title), metadata = coalesce(?, metadata),"
                " settings = coalesce(?, settings) WHERE cid = ? AND NOT (? AND title IS NOT NULL)"
                " AND born = coalesce(?, born)",
                (title, metadata, settings, cid, if_untitled, born),
            )
            if not updated.rowcount:
                return False
            if title is not None:
                index.index_title(db, cid, title)
            if pins is not None:
                threads.pin(db, cid, pins)
            insert_event(db, cid, event, self._clock(), given=True)
            return True

        return await self._file.write(work)

    async def delete_context(self, key: ContextKey) -> bool:
        def work(db: Connection) -> bool:
            owners.forget_context(db, key)
            row = db.execute("DELETE FROM contexts WHERE owner = ? AND id = ? RETURNING epoch", key).fetchone()
            if row is None:
                return False
            owners.owe_scrub(db)
            accounts.forget_context(db, key)
            db.execute("UPDATE epoch_floor SET floor = max(floor, ?)", (row[0] + 1,))
            return True

        return await self._file.write(work)

    async def raise_epoch(self, key: ContextKey, expected: int) -> tuple[int, int] | None:
        def work(db: Connection) -> tuple[int, int] | None:
            cid = context_id(db, key)
            raised = db.execute(
                "UPDATE contexts SET epoch = epoch + 1 WHERE cid = ? AND epoch = ? RETURNING epoch", (cid, expected)
            ).fetchone()
            if raised is None:
                return None
            query = "SELECT max(seq) FROM events WHERE cid = ? AND seq IS NOT NULL"
            return raised[0], db.execute(query, (cid,)).fetchone()[0] or 0

        return await self._file.write(work)

    # -- what clients send

    async def submit(
        self,
        key: ContextKey,
        event: NewEvent,
        turn: NewTurn | None,
        when_busy: WhenBusy = "queue",
        queue_length: int = 100,
        sender: Sender | None = None,
    ) -> Accepted:
        accepted = await self._file.write(
            lambda db: clients.submit(db, key, event, turn, when_busy, queue_length, sender, self._clock())
        )
        if accepted is None:
            raise Busy(key.id)
        return accepted

    async def steer(self, key: ContextKey, turn_id: str, event: NewEvent) -> Accepted | None:
        return await self._file.write(lambda db: clients.steer(db, key, turn_id, event, self._clock()))

    async def cancel(self, key: ContextKey, id: str, turn_id: str | None, call_id: str | None) -> Accepted:
        return await self._file.write(lambda db: clients.cancel(db, key, id, turn_id, call_id))

    async def answer(self, key: ContextKey, event: NewEvent, session_id: str | None) -> Accepted:
        return await self._file.write(lambda db: clients.answer(db, key, event, session_id, self._clock()))

    async def approve(self, key: ContextKey, event: NewEvent, remember: Remembered | None = None) -> Accepted:
        return await self._file.write(lambda db: clients.approve(db, key, event, remember, self._clock()))

    async def remembered(self, key: ContextKey, definition: str) -> bool | None:
        return await self._file.read(lambda db: clients.remembered(db, key, definition))

    async def get_call(self, key: ContextKey, call_id: str) -> Call | None:
        def work(db: Connection) -> Call | None:
            cid = find_context(db, key)
            return clients.find_call(db, cid, call_id) if cid is not None else None

        return await self._file.read(work)

    # -- what a turn's runner does

    async def active_turn(self, key: ContextKey) -> Turn | None:
        return await self._file.read(lambda db: turns.active_turn(db, key))

    async def next_turn(self, key: ContextKey) -> Turn | None:
        return await self._file.read(lambda db: turns.next_turn(db, key))

    async def claim(self, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
        return await self._file.write(lambda db: turns.claim(db, key, turn_id, runner, fence))

    async def load_turn(self, key: ContextKey, turn_id: str) -> TurnRows | None:
        return await self._file.read(lambda db: turns.load_turn(db, key, turn_id))

    async def inputs(
        self, key: ContextKey, turn_id: str, after: int
    ) -> tuple[list[EventRow], list[CancelRequest], bool]:
        return await self._file.read(lambda db: turns.inputs(db, key, turn_id, after))

    async def write(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent]) -> Written:
        return await self._file.write(lambda db: turns.write(db, key, turn_id, fence, events, self._clock()))

    async def claim_call(self, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
        return await self._file.write(lambda db: turns.claim_call(db, key, turn_id, fence, call_id))

    async def end_turn(
        self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int
    ) -> Written | None:
        return await self._file.write(lambda db: turns.end_turn(db, key, turn_id, fence, events, seen, self._clock()))

    async def park(self, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None = None) -> bool:
        return await self._file.write(lambda db: turns.park(db, key, turn_id, fence, seen, wake_at))

    async def release(self, key: ContextKey, turn_id: str, fence: int) -> None:
        query = (
            "UPDATE turns SET runner = NULL WHERE id = ? AND fence = ?"
            " AND cid = (SELECT cid FROM contexts WHERE owner = ? AND id = ?)"
        )
        await self._file.write(lambda db: db.execute(query, (turn_id, fence, *key)))

    # -- seqs and recovery

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
        return await self._file.write(lambda db: turns.record(db, key, epoch, seqs))

    async def unsequenced(self, key: ContextKey, turn_id: str | None = None) -> list[tuple[EventRow, bool]]:
        return await self._file.read(lambda db: turns.unsequenced(db, key, turn_id))

    async def stray_contexts(self, limit: int) -> list[ContextKey]:
        return await self._file.read(lambda db: turns.stray_contexts(db, limit))

    async def turns_to_run(self, alive: Collection[str] | None, limit: int) -> list[Turn]:
        return await self._file.read(lambda db: turns.turns_to_run(db, alive, limit, self._clock()))

    # -- reading

    async def history(self, key: ContextKey, before: int | None, limit: int) -> History:
        return await self._file.read(lambda db: turns.history(db, key, before, limit))

    async def find_event(self, key: ContextKey, id: str) -> EventRow | None:
        return await self._file.read(lambda db: threads.find_event(db, key, id))

    async def thread(self, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
        return await self._file.read(lambda db: threads.thread(db, key, after, limit))

    async def older(self, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
        return await self._file.read(lambda db: threads.older(db, key, before, limit))

    async def put_summary(self, key: ContextKey, summary: Summary, born: int) -> bool:
        return await self._file.write(lambda db: threads.put_summary(db, key, summary, born))

    async def open_calls(self, key: ContextKey, seq: int) -> list[EventRow]:
        return await self._file.read(lambda db: turns.open_calls(db, key, seq))

    # -- sessions

    async def take_session(self, session: SessionRecord, now: float, gone: str | None = None) -> bool:
        return await self._file.write(lambda db: sessions.take_session(db, session, now, gone))

    async def put_session(self, session: SessionRecord) -> bool:
        return await self._file.write(lambda db: sessions.put_session(db, session))

    async def leave_session(self, id: str, holder: str) -> None:
        await self._file.write(lambda db: sessions.leave_session(db, id, holder))

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        return await self._file.read(lambda db: sessions.get_session(db, id, now))

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        return await self._file.read(lambda db: sessions.sessions_of(db, owner, now))

    async def delete_expired_sessions(self, now: float) -> int:
        return await self._file.write(lambda db: sessions.delete_expired(db, now))

    # -- keys

    async def add_key(self, key: KeyRecord) -> None:
        await self._file.write(lambda db: keys.add_key(db, key))

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        return await self._file.read(lambda db: keys.find_key(db, digest))

    async def list_keys(self) -> list[KeyRecord]:
        return await self._file.read(keys.list_keys)

    async def revoke_key(self, id: str, now: float) -> bool:
        return await self._file.write(lambda db: keys.revoke_key(db, id, now))

    # -- all that an owner has

    async def search(self, owner: str, query: str, after: str | None, limit: int) -> tuple[list[SearchHit], str | None]:
        wanted = parse_query(query)
        found, following = await self._file.read(lambda db: index.search(db, owner, wanted, after, limit))
        # Texts may be long: neither the loop nor the thread that reads waits for their snippets.
        hits = await asyncio.to_thread(lambda: [index.read_hit(hit, wanted) for hit in found])
        return hits, following

    async def contexts_after(self, owner: str, id: str, limit: int) -> list[ContextRecord]:
        query = f"SELECT {CONTEXT} FROM contexts WHERE owner = ? AND id > ? ORDER BY id LIMIT ?"
        rows = await self._file.read(lambda db: db.execute(query, (owner, id, limit)).fetchall())
        return [context_of(row) for row in rows]

    async def events_after(self, key: ContextKey, seq: int, limit: int) -> History:
        return await self._file.read(lambda db: owners.events_after(db, key, seq, limit))

    async def all_remembered(self, key: ContextKey) -> list[Remembered]:
        return await self._file.read(lambda db: clients.all_remembered(db, key))

    async def all_sessions(self, owner: str) -> list[SessionRecord]:
        return await self._file.read(lambda db: sessions.all_sessions(db, owner))

    async def delete_sessions(self, owner: str) -> int:
        return await self._file.write(lambda db: owners.delete_sessions(db, owner))

    async def keys_of(self, tenant: str, subject: str) -> list[KeyRecord]:
        return await self._file.read(lambda db: keys.keys_of(db, tenant, subject))

    async def scrub(self) -> bool:
        return await self._file.scrub()

    # -- usage

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        return await self._file.write(lambda db: accounts.add_once(db, key, id, usage))

    async def usage(
        self, tenant: str, owner: str | None, first: str, last: str, by: UsageBy, after: str | None, limit: int
    ) -> UsagePage:
        return await self._file.read(lambda db: accounts.usage(db, tenant, owner, (first, last), by, after, limit))

    # -- secrets

    async def get_secret(self, owner: str, name: str) -> SecretRecord | None:
        return await self._file.read(lambda db: sealed.get_secret(db, owner, name))

    async def put_secret(self, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
        return await self._file.write(lambda db: sealed.put_secret(db, owner, name, value, expected))

    async def delete_secret(self, owner: str, name: str) -> bool:
        return await self._file.write(lambda db: sealed.delete_secret(db, owner, name))

    async def secrets_of(self, owner: str) -> list[SecretRecord]:
        return await self._file.read(lambda db: sealed.secrets_of(db, owner))

    async def delete_secrets(self, owner: str) -> int:
        return await self._file.write(lambda db: sealed.delete_secrets(db, owner))

    # -- audit

    async def audit(self, owner: str, records: Sequence[AuditRecord]) -> None:
        await self._file.write(lambda db: ledger.add(db, records))

    async def audits(self, tenant: str, query: AuditQuery, after: str | None, limit: int) -> AuditPage:
        below = page_place(after)
        return await self._file.read(lambda db: ledger.audits(db, tenant, query, below, limit))

    async def prune_audits(self, before: float, limit: int) -> int:
        return await self._file.write(lambda db: ledger.prune(db, before, limit))
