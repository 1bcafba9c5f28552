"""Contexts, sessions, keys and usage over several stores, each of which has a part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

from protocol.frames import WhenBusy
from stores.audit_pages import merge_audits
from stores.audit_records import AuditPage, AuditQuery, AuditRecord
from stores.list_pages import page_place
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
from stores.search_pages import TITLE, Place, place_of, token_of
from stores.shard_pages import merge_contexts, merge_hits, merge_strays, merge_turns, merge_usage, moment_of
from stores.shards import Shards
from stores.store import Store

__all__ = ["ShardedStore"]


class ShardedStore:
    """Implements all of connect.Store over stores that do, by names that stay (shards.shard_urls).

    A context, with its turns, usage and texts, is on the shard of its owner and id; an owner's sessions and secrets are
    together on that of the owner; a key is on that of its digest. Nothing is looked for elsewhere. So an id of
    `add_usage` is remembered with its context, not with its owner.

    Another shard takes its even part of all names, those of what is stored already too: that is found again only once
    it has been moved. Moving is no part of this: begin with as many shards as there will be (several may be databases
    of one server, and move to servers of their own under their names), or add one while nothing is stored.

    A shard that is away makes what it has Unavailable, and what needs all of them: lists, searches, sums, keys that are
    listed or revoked, and a session that no other one has. What recovery asks for, those that are there answer.
    """

    def __init__(self, stores: Mapping[str, Store]) -> None:
        """Raises ValueError where there are none."""
        self._shards = Shards(stores)

    def _of(self, key: ContextKey) -> Store:
        return self._shards.of("context", *key)

    def _of_owner(self, owner: str) -> Store:
        return self._shards.of("owner", owner)

    async def check(self) -> None:
        """Raises Unavailable where no shard can be asked: for one that is away the others' contexts are served on. That
        one is, is logged."""
        await self._shards.those_there(lambda shard: shard.check())

    async def close(self) -> None:
        await self._shards.all(lambda shard: shard.close())

    # -- contexts

    async def create_context(
        self, key: ContextKey, title: str | None, metadata: bytes | None, settings: bytes | None = None
    ) -> bool:
        return await self._of(key).create_context(key, title, metadata, settings)

    async def get_context(self, key: ContextKey) -> ContextRecord | None:
        return await self._of(key).get_context(key)

    async def list_contexts(self, owner: str, after: str | None, limit: int) -> tuple[list[ContextRecord], str | None]:
        page_place(after)
        # The place that a token names is one in the order of all contexts, wherever they are.
        pages = await self._shards.all(lambda shard: shard.list_contexts(owner, after, limit))
        return merge_contexts(pages, limit)

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
        return await self._of(key).update_context(
            key, title, metadata, event, settings=settings, pins=pins, if_untitled=if_untitled, born=born
        )

    async def delete_context(self, key: ContextKey) -> bool:
        home, sessions = self._of(key), self._of_owner(key.owner)
        # The sessions' lists first: where the second step fails, the whole can be done again.
        if sessions is not home:
            await sessions.delete_context(key)
        return await home.delete_context(key)

    async def raise_epoch(self, key: ContextKey, expected: int) -> tuple[int, int] | None:
        return await self._of(key).raise_epoch(key, expected)

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
        return await self._of(key).submit(key, event, turn, when_busy, queue_length, sender)

    async def steer(self, key: ContextKey, turn_id: str, event: NewEvent) -> Accepted | None:
        return await self._of(key).steer(key, turn_id, event)

    async def cancel(self, key: ContextKey, id: str, turn_id: str | None, call_id: str | None) -> Accepted:
        return await self._of(key).cancel(key, id, turn_id, call_id)

    async def answer(self, key: ContextKey, event: NewEvent, session_id: str | None) -> Accepted:
        return await self._of(key).answer(key, event, session_id)

    async def approve(self, key: ContextKey, event: NewEvent, remember: Remembered | None = None) -> Accepted:
        return await self._of(key).approve(key, event, remember)

    async def remembered(self, key: ContextKey, definition: str) -> bool | None:
        return await self._of(key).remembered(key, definition)

    async def get_call(self, key: ContextKey, call_id: str) -> Call | None:
        return await self._of(key).get_call(key, call_id)

    # -- what a turn's runner does

    async def active_turn(self, key: ContextKey) -> Turn | None:
        return await self._of(key).active_turn(key)

    async def next_turn(self, key: ContextKey) -> Turn | None:
        return await self._of(key).next_turn(key)

    async def claim(self, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
        return await self._of(key).claim(key, turn_id, runner, fence)

    async def load_turn(self, key: ContextKey, turn_id: str) -> TurnRows | None:
        return await self._of(key).load_turn(key, turn_id)

    async def inputs(
        self, key: ContextKey, turn_id: str, after: int
    ) -> tuple[list[EventRow], list[CancelRequest], bool]:
        return await self._of(key).inputs(key, turn_id, after)

    async def write(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent]) -> Written:
        return await self._of(key).write(key, turn_id, fence, events)

    async def claim_call(self, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
        return await self._of(key).claim_call(key, turn_id, fence, call_id)

    async def end_turn(
        self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int
    ) -> Written | None:
        return await self._of(key).end_turn(key, turn_id, fence, events, seen)

    async def park(self, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None = None) -> bool:
        return await self._of(key).park(key, turn_id, fence, seen, wake_at)

    async def release(self, key: ContextKey, turn_id: str, fence: int) -> None:
        await self._of(key).release(key, turn_id, fence)

    # -- seqs and recovery

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
        return await self._of(key).record(key, epoch, seqs)

    async def unsequenced(self, key: ContextKey, turn_id: str | None = None) -> list[tuple[EventRow, bool]]:
        return await self._of(key).unsequenced(key, turn_id)

    async def stray_contexts(self, limit: int) -> list[ContextKey]:
        lists = await self._shards.those_there(lambda shard: shard.stray_contexts(limit))
        return merge_strays(lists, limit)

    async def turns_to_run(self, alive: Collection[str] | None, limit: int) -> list[Turn]:
        return merge_turns(await self._shards.those_there(lambda shard: shard.turns_to_run(alive, limit)), limit)

    # -- reading

    async def history(self, key: ContextKey, before: int | None, limit: int) -> History:
        return await self._of(key).history(key, before, limit)

    async def find_event(self, key: ContextKey, id: str) -> EventRow | None:
        return await self._of(key).find_event(key, id)

    async def thread(self, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
        return await self._of(key).thread(key, after, limit)

    async def older(self, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
        return await self._of(key).older(key, before, limit)

    async def put_summary(self, key: ContextKey, summary: Summary, born: int) -> bool:
        return await self._of(key).put_summary(key, summary, born)

    async def open_calls(self, key: ContextKey, seq: int) -> list[EventRow]:
        return await self._of(key).open_calls(key, seq)

    # -- sessions

    async def take_session(self, session: SessionRecord, now: float, gone: str | None = None) -> bool:
        return await self._of_owner(session.owner).take_session(session, now, gone)

    async def put_session(self, session: SessionRecord) -> bool:
        return await self._of_owner(session.owner).put_session(session)

    async def leave_session(self, id: str, holder: str) -> None:
        await self._shards.all(lambda shard: shard.leave_session(id, holder))

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        answers, failed = await self._shards.settled(lambda shard: shard.get_session(id, now))
        for answer in answers:
            if answer is not None:
                return answer
        for error in failed.values():
            raise error
        return None

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        return await self._of_owner(owner).sessions_of(owner, now)

    async def delete_expired_sessions(self, now: float) -> int:
        return sum(await self._shards.all(lambda shard: shard.delete_expired_sessions(now)))

    # -- keys

    async def add_key(self, key: KeyRecord) -> None:
        await self._shards.of("key", key.digest).add_key(key)

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        return await self._shards.of("key", digest).find_key(digest)

    async def list_keys(self) -> list[KeyRecord]:
        return _by_age(await self._shards.all(lambda shard: shard.list_keys()))

    async def revoke_key(self, id: str, now: float) -> bool:
        revoked, failed = await self._shards.settled(lambda shard: shard.revoke_key(id, now))
        for error in failed.values() if not any(revoked) else ():
            raise error
        return any(revoked)

    # -- all that an owner has

    async def search(self, owner: str, query: str, after: str | None, limit: int) -> tuple[list[SearchHit], str | None]:
        start = place_of(after)
        pages = await self._shards.all(lambda shard: shard.search(owner, query, after, limit))
        hits, end = merge_hits([(found, place_of(token) if token else None) for found, token in pages], start, limit)
        if isinstance(end, SearchHit):
            end = await self._behind(end, start)
        return hits, token_of(end) if end is not None else None

    async def _behind(self, hit: SearchHit, start: Place) -> Place:
        """The place right behind a hit of a page that began there."""
        if hit.message_id is None:
            return moment_of(hit, start), hit.key.id, TITLE
        row = await self.find_event(hit.key, hit.message_id)
        # Where the context is gone by now, nothing of it is left to be seen.
        return moment_of(hit, start), hit.key.id, row.order if row is not None else 0

    async def contexts_after(self, owner: str, id: str, limit: int) -> list[ContextRecord]:
        lists = await self._shards.all(lambda shard: shard.contexts_after(owner, id, limit))
        return sorted((record for records in lists for record in records), key=lambda record: record.key.id)[:limit]

    async def events_after(self, key: ContextKey, seq: int, limit: int) -> History:
        return await self._of(key).events_after(key, seq, limit)

    async def all_remembered(self, key: ContextKey) -> list[Remembered]:
        return await self._of(key).all_remembered(key)

    async def all_sessions(self, owner: str) -> list[SessionRecord]:
        return await self._of_owner(owner).all_sessions(owner)

    async def delete_sessions(self, owner: str) -> int:
        return await self._of_owner(owner).delete_sessions(owner)

    async def keys_of(self, tenant: str, subject: str) -> list[KeyRecord]:
        return _by_age(await self._shards.all(lambda shard: shard.keys_of(tenant, subject)))

    async def scrub(self) -> bool:
        return all(await self._shards.all(lambda shard: shard.scrub()))

    # -- secrets

    async def get_secret(self, owner: str, name: str) -> SecretRecord | None:
        return await self._of_owner(owner).get_secret(owner, name)

    async def put_secret(self, owner: str, name: str, value: bytes, expected: int | None) -> int | None:
        return await self._of_owner(owner).put_secret(owner, name, value, expected)

    async def delete_secret(self, owner: str, name: str) -> bool:
        return await self._of_owner(owner).delete_secret(owner, name)

    async def secrets_of(self, owner: str) -> list[SecretRecord]:
        return await self._of_owner(owner).secrets_of(owner)

    async def delete_secrets(self, owner: str) -> int:
        return await self._of_owner(owner).delete_secrets(owner)

    # -- audit: of an event with its context, of all else with its owner

    async def audit(self, owner: str, records: Sequence[AuditRecord]) -> None:
        await self._of_owner(owner).audit(owner, records)

    async def audits(self, tenant: str, query: AuditQuery, after: str | None, limit: int) -> AuditPage:
        pages = await self._shards.all(lambda shard: shard.audits(tenant, query, after, limit))
        return merge_audits(pages, limit)

    async def prune_audits(self, before: float, limit: int) -> int:
        return sum(await self._shards.all(lambda shard: shard.prune_audits(before, limit)))

    # -- usage

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        return await self._of(key).add_usage(key, id, usage)

    async def usage(
        self, tenant: str, owner: str | None, first: str, last: str, by: UsageBy, after: str | None, limit: int
    ) -> UsagePage:
        pages = await self._shards.all(lambda shard: shard.usage(tenant, owner, first, last, by, after, limit))
        return merge_usage(pages, limit)


def _by_age(lists: Sequence[list[KeyRecord]]) -> list[KeyRecord]:
    return sorted((key for keys in lists for key in keys), key=attrgetter("created_at", "id"))
