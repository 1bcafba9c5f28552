"""All that is durable in a PostgreSQL database: the store of many instances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

from protocol.frames import WhenBusy
from stores import postgres_audit as ledger
from stores import postgres_clients as clients
from stores import postgres_contexts as contexts
from stores import postgres_keys as keys
from stores import postgres_owner as owners
from stores import postgres_search as index
from stores import postgres_secrets as sealed
from stores import postgres_sessions as sessions
from stores import postgres_threads as threads
from stores import postgres_turns as turns
from stores import postgres_usage as accounts
from stores.audit_records import AuditPage, AuditQuery, AuditRecord
from stores.list_pages import page_place
from stores.ports import Busy, Unavailable
from stores.postgres_database import EVERYTHING, Limits, PostgresDatabase
from stores.postgres_scrub import Scrub
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

__all__ = ["Limits", "PostgresStore"]


class PostgresStore:
    """Implements all of connect.Store. `clock` is in seconds since 1970: instances that share a database must agree on
    it to within the second or two after which an event that has no seq is taken for stray."""

    def __init__(self, database: PostgresDatabase, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._scrub = Scrub(database.bare)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        connections: int = 10,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> PostgresStore:
        """Connect, with so many `connections` at most, and bring the schema up to date. Raises StoreUrlError,
        Unavailable."""
        return cls(await PostgresDatabase.open(url, limits or Limits(max_size=connections)), clock)

    async def check(self) -> None:
        # In a transaction that may write: a replica is no store.
        query = "SELECT current_setting('transaction_read_only')"
        if await self._database.write(EVERYTHING, lambda db: db.fetchval(query)) == "on":
            raise Unavailable("postgres: the database only reads")

    async def close(self) -> None:
        await self._database.close()

    # -- contexts

    async def create_context(
        self, key: ContextKey, title: str | None, metadata: bytes | None, settings: bytes | None = None
    ) -> bool:
        now = self._clock()
        return await self._database.write_context(
            key, lambda db, there: contexts.create(db, there, key, title, metadata, settings, now)
        )

    async def get_context(self, key: ContextKey) -> ContextRecord | None:
        if "\0" in key.id:
            return None  # PostgreSQL would not even look
        return await self._database.read(key.owner, lambda db: contexts.get_context(db, key))

    async def list_contexts(self, owner: str, after: str | None, limit: int) -> tuple[list[ContextRecord], str | None]:
        below = page_place(after)
        return await self._database.read(owner, lambda db: contexts.list_contexts(db, owner, below, limit))

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
        return await self._database.write_context(
            key,
            lambda db, there: contexts.update(
                db,
                there,
                key,
                title,
                metadata,
                event,
                settings=settings,
                pins=pins,
                if_untitled=if_untitled,
                born=born,
                now=self._clock(),
            ),
        )

    async def delete_context(self, key: ContextKey) -> bool:
        return await self._database.write_context(key, lambda db, there: contexts.delete(db, there, key))

    async def raise_epoch(self, key: ContextKey, expected: int) -> tuple[int, int] | None:
        return await self._database.write_context(key, lambda db, there: turns.raise_epoch(db, there, key, expected))

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
        accepted = await self._database.write_context(
            key,
            lambda db, there: clients.submit(
                db, there, key, event, turn, when_busy, queue_length, sender, self._clock()
            ),
        )
        if accepted is None:
            raise Busy(key.id)
        return accepted

    async def steer(self, key: ContextKey, turn_id: str, event: NewEvent) -> Accepted | None:
        return await self._database.write_context(
            key, lambda db, there: clients.steer(db, there, key, turn_id, event, self._clock())
        )

    async def cancel(self, key: ContextKey, id: str, turn_id: str | None, call_id: str | None) -> Accepted:
        return await self._database.write_context(
            key, lambda db, there: clients.cancel(db, there, key, id, turn_id, call_id)
        )

    async def answer(self, key: ContextKey, event: NewEvent, session_id: str | None) -> Accepted:
        return await self._database.write_context(
            key, lambda db, there: clients.answer(db, there, key, event, session_id, self._clock())
        )

    async def approve(self, key: ContextKey, event: NewEvent, remember: Remembered | None = None) -> Accepted:
        return await self._database.write_context(
            key, lambda db, there: clients.approve(db, there, key, event, remember, self._clock())
        )

    async def remembered(self, key: ContextKey, definition: str) -> bool | None:
        return await self._database.read(key.owner, lambda db: clients.remembered(db, key, definition))

    async def get_call(self, key: ContextKey, call_id: str) -> Call | None:
        return await self._database.read(key.owner, lambda db: clients.find_call(db, key, call_id))

    # -- what a turn's runner does

    async def active_turn(self, key: ContextKey) -> Turn | None:
        return await self._database.read(key.owner, lambda db: turns.active_turn(db, key))

    async def next_turn(self, key: ContextKey) -> Turn | None:
        return await self._database.read(key.owner, lambda db: turns.next_turn(db, key))

    async def claim(self, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
        return await self._database.write_context(key, lambda db, _: turns.claim(db, key, turn_id, runner, fence))

    async def load_turn(self, key: ContextKey, turn_id: str) -> TurnRows | None:
        return await self._database.read(key.owner, lambda db: turns.load_turn(db, key, turn_id))

    async def inputs(
        self, key: ContextKey, turn_id: str, after: int
    ) -> tuple[list[EventRow], list[CancelRequest], bool]:
        return await self._database.read(key.owner, lambda db: turns.inputs(db, key, turn_id, after))

    async def write(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent]) -> Written:
        return await self._database.write_context(
            key, lambda db, _: turns.write(db, key, turn_id, fence, events, self._clock())
        )

    async def claim_call(self, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
        return await self._database.write_context(key, lambda db, _: turns.claim_call(db, key, turn_id, fence, call_id))

    async def end_turn(
        self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int
    ) -> Written | None:
        return await self._database.write_context(
            key, lambda db, _: turns.end_turn(db, key, turn_id, fence, events, seen, self._clock())
        )

    async def park(self, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None = None) -> bool:
        return await self._database.write_context(key, lambda db, _: turns.park(db, key, turn_id, fence, seen, wake_at))

    async def release(self, key: ContextKey, turn_id: str, fence: int) -> None:
        await self._database.write_context(key, lambda db, _: turns.release(db, key, turn_id, fence))

    # -- seqs and recovery

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
        return await self._database.write_context(key, lambda db, _: turns.record(db, key, epoch, seqs))

    async def unsequenced(self, key: ContextKey, turn_id: str | None = None) -> list[tuple[EventRow, bool]]:
        return await self._database.read(key.owner, lambda db: turns.unsequenced(db, key, turn_id))

    async def stray_contexts(self, limit: int) -> list[ContextKey]:
        return await self._database.read(EVERYTHING, lambda db: turns.stray_contexts(db, limit))

    async def turns_to_run(self, alive: Collection[str] | None, limit: int) -> list[Turn]:
        return await self._database.read(EVERYTHING, lambda db: turns.turns_to_run(db, alive, limit, self._clock()))

    # -- reading

    async def history(self, key: ContextKey, before: int | None, limit: int) -> History:
        return await self._database.read(key.owner, lambda db: threads.history(db, key, before, limit))

    async def find_event(self, key: ContextKey, id: str) -> EventRow | None:
        return await self._database.read(key.owner, lambda db: threads.find_event(db, key, id))

    async def thread(self, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
        return await self._database.read(key.owner, lambda db: threads.thread(db, key, after, limit))

    async def older(self, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
        return await self._database.read(key.owner, lambda db: threads.older(db, key, before, limit))

    async def put_summary(self, key: ContextKey, summary: Summary, born: int) -> bool:
        return await self._database.write_context(key, lambda db, _: threads.put_summary(db, key, summary, born))

    async def open_calls(self, key: ContextKey, seq: int) -> list[EventRow]:
        return await self._database.read(key.owner, lambda db: threads.open_calls(db, key, seq))

    # -- sessions: an id alone does not tell whose it is

    async def take_session(self, session: SessionRecord, now: float, gone: str | None = None) -> bool:
        return await self._database.write(EVERYTHING, lambda db: sessions.take_session(db, session, now, gone))

    async def put_session(self, session: SessionRecord) -> bool:
        return await self._database.write(EVERYTHING, lambda db: sessions.put_session(db, session))

    async def leave_session(self, id: str, holder: str) -> None:
        await self._database.write(EVERYTHING, lambda db: sessions.leave_session(db, id, holder))

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        return await self._database.read(EVERYTHING, lambda db: sessions.get_session(db, id, now))

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        return await self._database.read(owner, lambda db: sessions.sessions_of(db, owner, now))

    async def delete_expired_sessions(self, now: float) -> int:
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        # Whoever adds usage forgets ids of his own only, and some never come back.
        await self._database.write(EVERYTHING, lambda db: accounts.forget_ids(db, day))
        return await self._database.write(EVERYTHING, lambda db: sessions.delete_expired(db, now))

    # -- keys, which are the instance's

    async def add_key(self, key: KeyRecord) -> None:
        await self._database.write(EVERYTHING, lambda db: keys.add_key(db, key))

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        return await self._database.read(EVERYTHING, lambda db: keys.find_key(db, digest))

    async def list_keys(self) -> list[KeyRecord]:
        return await self._database.read(EVERYTHING, keys.list_keys)

    async def revoke_key(self, id: str, now: float) -> bool:
        return await self._database.write(EVERYTHING, lambda db: keys.revoke_key(db, id, now))

    # -- all that an owner has

    async def search(self, owner: str, query: str, after: str | None, limit: int) -> tuple[list[SearchHit], str | None]:
        wanted = parse_query(query)
        found, following = await self._database.read(owner, lambda db: index.search(db, owner, wanted, after, limit))
        # Texts may be long: the loop does not wait for their snippets.
        hits = await asyncio.to_thread(lambda: [index.read_hit(hit, wanted) for hit in found])
        return hits, following

    async def contexts_after(self, owner: str, id: str, limit: int) -> list[ContextRecord]:
        return await self._database.read(owner, lambda db: contexts.contexts_after(db, owner, id, limit))

    async def events_after(self, key: ContextKey, seq: int, limit: int) -> History:
        return await self._database.read(key.owner, lambda db: owners.events_after(db, key, seq, limit))

    async def all_remembered(self, key: ContextKey) -> list[Remembered]:
        return await self._database.read(key.owner, lambda db: clients.all_remembered(db, key))

    async def all_sessions(self, owner: str) -> list[SessionRecord]:
        return await self._database.read(owner, lambda db: owners.all_sessions(db, owner))

    async def delete_sessions(self, owner: str) -> int:
        return await self._database.write(owner, lambda db: owners.delete_sessions(db, owner))

    async def keys_of(self, tenant: str, subject: str) -> list[KeyRecord]:
        return await self._database.read(EVERYTHING, lambda db: keys.keys_of(db, tenant, subject))

    async def scrub(self) -> bool:
        return await self._scrub()

    # -- secrets

    async def get_secret(self, owner: str, name: str) -> SecretRecord | None:
        return await self._database.read(owner, lambda db: sealed.get_secret(db, owner, name))

    async def put_secret(self, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
        return await self._database.write(owner, lambda db: sealed.put_secret(db, owner, name, value, expected))

    async def delete_secret(self, owner: str, name: str) -> bool:
        return await self._database.write(owner, lambda db: sealed.delete_secret(db, owner, name))

    async def secrets_of(self, owner: str) -> list[SecretRecord]:
        return await self._database.read(owner, lambda db: sealed.secrets_of(db, owner))

    async def delete_secrets(self, owner: str) -> int:
        return await self._database.write(owner, lambda db: sealed.delete_secrets(db, owner))

    # -- audit

    async def audit(self, owner: str, records: Sequence[AuditRecord]) -> None:
        await self._database.write(owner, lambda db: ledger.add(db, owner, records))

    async def audits(self, tenant: str, query: AuditQuery, after: str | None, limit: int) -> AuditPage:
        below = page_place(after)
        whole = ledger.whole_tenant(tenant)
        return await self._database.read(whole, lambda db: ledger.audits(db, tenant, query, below, limit))

    async def prune_audits(self, before: float, limit: int) -> int:
        return await self._database.write(EVERYTHING, lambda db: ledger.prune(db, before, limit))

    # -- usage

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        return await self._database.write(key.owner, lambda db: accounts.add_once(db, key, id, usage))

    async def usage(
        self, tenant: str, owner: str | None, first: str, last: str, by: UsageBy, after: str | None, limit: int
    ) -> UsagePage:
        return await self._database.read(
            owner or EVERYTHING, lambda db: accounts.usage(db, tenant, owner, (first, last), by, after, limit)
        )
