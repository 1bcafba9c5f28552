"""The ports between the gateway and its stores. Every adapter passes the same contract suite (tests/stores).

Order, atomicity and errors stated here hold for every adapter. Each method is one transaction (store) or one script
(log): it happens whole or not at all, and concurrent calls behave as if they came one after another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from protocol.frames import WhenBusy
from stores.records import (
    Accepted,
    Call,
    CancelRequest,
    ContextKey,
    ContextRecord,
    Entry,
    EventRow,
    Head,
    History,
    KeyRecord,
    LogBatch,
    LogFold,
    NewEvent,
    NewTurn,
    NewUsage,
    Publication,
    SearchHit,
    SessionRecord,
    Summary,
    ThreadRows,
    Turn,
    TurnRows,
    UsageBy,
    UsagePage,
)

__all__ = [
    "AlreadyAnswered",
    "Bus",
    "Busy",
    "Cache",
    "ContextStore",
    "EpochOver",
    "EventLog",
    "Fenced",
    "Heartbeats",
    "IdTaken",
    "KeyStore",
    "NotFound",
    "OwnerStore",
    "SearchStore",
    "SessionStore",
    "StaleFence",
    "StoreError",
    "Unavailable",
    "UsageStore",
]


class StoreError(Exception):
    """What a store refuses. Nothing of the refused call was stored."""


class Unavailable(StoreError):
    """The store or log can't take or answer the call now (locked, full, away). Trying again may help."""


class NotFound(StoreError):
    """No such context, turn or call in this owner's namespace."""


class IdTaken(StoreError):
    """The context has another kind of event under this id."""


class Busy(StoreError):
    """A turn runs or waits, and the message was not to wait."""


class AlreadyAnswered(StoreError):
    """The call has its answer, or its approval was decided: the first one counts."""


class Fenced(StoreError):
    """The turn was taken over: its fence is not the caller's any more, or its context is gone."""


class EpochOver(StoreError):
    """There is no log of that epoch (any more): learn the epoch anew."""


class StaleFence(StoreError):
    """The log has seen a higher fence of this turn."""


class ContextStore(Protocol):
    """Contexts, their durable events, turns and the tool ledger. All methods may raise Unavailable."""

    # -- contexts

    async def create_context(
        self, key: ContextKey, title: str | None, metadata: bytes | None, settings: bytes | None = None
    ) -> bool:
        """Make an empty context; False where it exists, which is left as it was. A new context's first epoch is
        higher than any that a deleted one of the same key had."""
        ...

    async def get_context(self, key: ContextKey) -> ContextRecord | None: ...

    async def list_contexts(self, owner: str, after: str | None, limit: int) -> tuple[list[ContextRecord], str | None]:
        """An owner's contexts, newest (by `updated_at`) first, and the opaque token of the next page. `updated_at` is
        raised by every stored event. A token that is not one of these raises ValueError."""
        ...

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
        """Set what is not None and store the `context` event that tells of it. `pins` are the ids of messages, in
        place of all that were pinned. False, and nothing stored, where it was to be done `if_untitled` and there is a
        title, or to a context that was `born` otherwise. Raises NotFound where there is no such context, or no such
        message to pin."""
        ...

    async def delete_context(self, key: ContextKey) -> bool:
        """Delete a context with all that belongs to it, for good; False where there is none. Turns lose their row,
        so whoever runs one meets Fenced."""
        ...

    async def raise_epoch(self, key: ContextKey, expected: int) -> tuple[int, int] | None:
        """Raise the epoch by one if it is `expected`: the new epoch and the highest recorded seq (0: none).
        None where it was not `expected`. Raises NotFound."""
        ...

    # -- what clients send

    async def submit(
        self,
        key: ContextKey,
        event: NewEvent,
        turn: NewTurn | None,
        when_busy: WhenBusy = "queue",
        queue_length: int = 100,
    ) -> Accepted:
        """Store a message (or a direct `tool_call`) with its turn, if any; creates the context where missing.

        The same event id again is a `duplicate` that changes nothing, whatever else differs. `when_busy` looks at the
        context's unended "message" turns: "reject" raises Busy where there is one; "interrupt" marks the one that
        runs or is parked as cancelled, a parked one becoming RUNNING without runner, and puts the new turn before all
        queued ones; "queue" and "steer" wait their turn. Raises Busy too where `queue_length` of them wait already,
        and IdTaken.
        """
        ...

    async def steer(self, key: ContextKey, turn_id: str, event: NewEvent) -> Accepted | None:
        """Add a message to the "message" turn `turn_id`, if it is RUNNING or PARKED (a parked one is woken);
        None where it is not, or was cancelled, and nothing was stored. Duplicates as in `submit`."""
        ...

    async def cancel(self, key: ContextKey, id: str, turn_id: str | None, call_id: str | None) -> Accepted:
        """Store a cancel under the frame's id; the same id again is a `duplicate`. Without turn and call it means the
        "message" turn that is RUNNING or PARKED now, and nothing where there is none. A whole turn is marked
        `cancelled`; a queued or parked one becomes RUNNING without runner. What has ended is left alone. Raises
        NotFound where the context, the named turn or call does not exist, or the call is of another turn."""
        ...

    async def answer(self, key: ContextKey, event: NewEvent, session_id: str | None) -> Accepted:
        """Store a client's `tool_response` (`event.answers`) and wake the turn if it is parked. Raises NotFound where
        no such call exists or it is not a client's of that session (None: of any), AlreadyAnswered. The event's
        `turn_id` must be the call's."""
        ...

    async def approve(self, key: ContextKey, event: NewEvent) -> Accepted:
        """Store a `tool_approval` (`event.decides`) and wake the turn if it is parked. Raises NotFound where no such
        call exists or it needs no approval, AlreadyAnswered where it was decided or answered."""
        ...

    async def get_call(self, key: ContextKey, call_id: str) -> Call | None: ...

    # -- what a turn's runner does; all conditional on the turn's fence

    async def active_turn(self, key: ContextKey) -> Turn | None:
        """The context's "message" turn that is RUNNING or PARKED, if any: of several (one that was cancelled while it
        was queued ends beside the one that runs) the one that was not cancelled, else the one that came first."""
        ...

    async def next_turn(self, key: ContextKey) -> Turn | None:
        """The first queued turn of the context if none of its "message" turns is RUNNING, PARKED or ENDED."""
        ...

    async def claim(self, key: ContextKey, turn_id: str, runner: str, fence: int) -> Turn | None:
        """Take the turn if its fence still is `fence`: set runner and state (RUNNING unless ENDED), raise the fence
        by one. None where somebody else did, it is DONE, or it is a queued "message" turn while another one of its
        context is RUNNING, PARKED or ENDED."""
        ...

    async def load_turn(self, key: ContextKey, turn_id: str) -> TurnRows | None: ...

    async def inputs(
        self, key: ContextKey, turn_id: str, after: int
    ) -> tuple[list[EventRow], list[CancelRequest], bool]:
        """What was stored for the turn with an `order` above `after`: all its events (the runner's own too), its
        cancels, and whether the turn as a whole is cancelled."""
        ...

    async def write(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent]) -> list[str]:
        """Store a turn's events, in order. An id that is stored already is passed over; so is a `tool_response` to a
        call that has one: the ids of those are returned. A `tool_call` opens its ledger row and, where it has a draft,
        replaces the turn's draft. Raises Fenced."""
        ...

    async def claim_call(self, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
        """Note that the call is about to run; False where it is answered. Raises Fenced."""
        ...

    async def end_turn(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int) -> bool:
        """Store the turn's last events, `turn_end` among them, as `write` does, and make it ENDED; False, and nothing
        stored, where a cancel of the turn, or an event of it that the runner did not write (as in `park`), with an
        `order` above `seen` is there. Raises Fenced."""
        ...

    async def park(self, key: ContextKey, turn_id: str, fence: int, seen: int) -> bool:
        """Make the turn PARKED without runner; False where an event that the runner did not write, or a cancel, with
        an `order` above `seen` is there. (The runner did not write steering messages, approvals, and answers stored
        by `answer`.) Raises Fenced."""
        ...

    async def release(self, key: ContextKey, turn_id: str, fence: int) -> None:
        """Give the turn up so that anyone may claim it at once; does nothing where the fence is not the caller's."""
        ...

    # -- seqs and recovery

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> bool:
        """Note the seq of stored events, where they have none; an ENDED turn all of whose events have one becomes
        DONE. Ids that the store does not have are passed over. False, and nothing noted, where `epoch` is not the
        context's (or the context is gone)."""
        ...

    async def unsequenced(self, key: ContextKey, turn_id: str | None = None) -> list[tuple[EventRow, bool]]:
        """The context's (or the turn's) events without seq, in the order of storing, each with whether its turn has
        a runner (RUNNING or ENDED): those are the runner's to append."""
        ...

    async def stray_contexts(self, older_than: float, limit: int) -> list[ContextKey]:
        """Contexts with events without seq that were stored before `older_than` (seconds since 1970) and whose turn,
        if any, has no runner."""
        ...

    async def turns_to_run(self, alive: Collection[str], limit: int) -> list[Turn]:
        """Turns that want a runner, oldest first: RUNNING or ENDED ones whose runner is None or not in `alive`, and
        what `next_turn` gives for each context."""
        ...

    # -- reading

    async def history(self, key: ContextKey, before: int | None, limit: int) -> History:
        """The newest `limit` sequenced events with a seq below `before` (None: no bound), and, without a bound, those
        without seq as well. Empty for an unknown context."""
        ...

    async def find_event(self, key: ContextKey, id: str) -> EventRow | None:
        """The event of that id, if it is stored."""
        ...

    async def thread(self, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
        """The first `limit` events whose `order` is above `after`, and the summaries above it; without `after`, the
        newest `limit` events and all summaries. Events come in the order of storing, and fewer where they are large;
        pins are always all that there are. None for an unknown context."""
        ...

    async def older(self, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
        """The newest `limit` events with an `order` below `before`, in the order of storing, fewer where they are
        large; and whether there are older ones."""
        ...

    async def put_summary(self, key: ContextKey, summary: Summary, born: int) -> bool:
        """Store a summary, in place of one up to the same turn. False where the context is gone, or another that was
        `born` otherwise."""
        ...

    async def open_calls(self, key: ContextKey, seq: int) -> list[EventRow]:
        """The `tool_call` events whose `tool_response` is not stored, has no seq, or one above `seq`, in the order of
        storing. Calls without a seq, or with one above, are among them: the caller knows the log."""
        ...

    async def close(self) -> None: ...


class SessionStore(Protocol):
    """Sessions, which outlive sockets and processes. All methods may raise Unavailable."""

    async def put_session(self, session: SessionRecord) -> None: ...

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        """None where it is unknown or expired at `now`."""
        ...

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        """The owner's sessions that have not expired at `now` and declare tools; the last put comes first."""
        ...

    async def delete_expired_sessions(self, now: float) -> int: ...


class KeyStore(Protocol):
    """API keys, by digest. All methods may raise Unavailable."""

    async def add_key(self, key: KeyRecord) -> None: ...

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this digest, revoked or not."""
        ...

    async def list_keys(self) -> list[KeyRecord]:
        """All keys, oldest first."""
        ...

    async def revoke_key(self, id: str, now: float) -> bool:
        """False where there is no such key, or it was revoked before."""
        ...


Follower = Callable[[Publication], None]


class EventLog(Protocol):
    """The live tail of every context. All methods may raise Unavailable; loss of the whole log is not an error:
    it shows as EpochOver, or None."""

    async def head(self, key: ContextKey) -> Head | None: ...

    async def begin(self, key: ContextKey, epoch: int, base: int) -> bool:
        """Begin a log whose first event will be `base` + 1. Succeeds over nothing and over an older epoch (or what an
        earlier life of the server left); False where a log of this epoch or a newer one stands."""
        ...

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        """Append batches of any contexts, in order, in one round trip; an answer for each, in the same order: the
        seqs of its durable events by id, or the refusal (EpochOver, StaleFence, Unavailable), which is not raised so
        that one context's refusal costs no other.

        Each batch is atomic: its events take the next seqs in order, without gap, and are published as one. A durable
        event whose id the log has is not appended again: its seq is answered. A batch whose `writer` was seen is
        answered as the first time and appends nothing. Unavailable means that it may have been appended: send the
        same batch again.
        """
        ...

    async def read(self, key: ContextKey, epoch: int, after: int, limit: int) -> list[Entry] | None:
        """Entries with a seq above `after`, in order, until their data exceeds `limit` bytes (one at least). None
        where the log is of another epoch or does not reach back to `after` + 1; [] at the head."""
        ...

    async def fold(self, key: ContextKey) -> LogFold | None: ...

    async def ids(self, key: ContextKey, epoch: int, upto: int) -> dict[str, int] | None:
        """The seq of every durable event up to `upto` that was not `recorded`; None where the log is of another
        epoch."""
        ...

    async def recorded(self, key: ContextKey, epoch: int, seq: int) -> None:
        """Tell the log that the store has every seq up to `seq`: their ids may be forgotten after an hour."""
        ...

    async def drop(self, key: ContextKey) -> None:
        """Forget the context's log."""
        ...

    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        """Hand every later publication of the context to `follower`, in order but possibly with gaps, from the event
        loop; it must not block. Answers how to stop. In process there are no gaps, and the call comes before `append`
        returns."""
        ...


class Bus(Protocol):
    """Wake-up calls between instances: at most once, in no order. Whoever needs more rereads the store."""

    async def publish(self, channel: str, payload: bytes) -> None: ...

    async def listen(self, channel: str, listener: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]: ...


class Heartbeats(Protocol):
    """Which instances are alive."""

    async def beat(self, instance: str, ttl: float) -> None: ...

    async def stop(self, instance: str) -> None: ...

    async def alive(self) -> frozenset[str] | None:
        """The instances whose heartbeat is not over; None while that can't be judged."""
        ...


class Cache(Protocol):
    """Small values that may be lost at any time. `ttl` is in seconds."""

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl: float) -> None: ...

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Set only where there is nothing; whether it did."""
        ...

    async def take(self, key: str) -> bytes | None:
        """Get and delete in one step: of many callers one gets the value."""
        ...


class SearchStore(Protocol):
    """Search over what users and models said in one's own contexts, and over their titles. May raise Unavailable.

    A message is found from the transaction on that stored it, a title while it is the context's, neither after the
    context was deleted.
    """

    async def search(self, owner: str, query: str, after: str | None, limit: int) -> tuple[list[SearchHit], str | None]:
        """What holds all words of `query` (stores/search_text.py), of this owner's contexts alone, and the opaque token
        of the next page. Contexts come with the newest (by `updated_at`) first, in each its title, then its messages,
        newest first. A page may have fewer than `limit` hits, or none, though another follows: each call looks through
        a bounded number of contexts. No query is an error; a token that is not one of these raises ValueError."""
        ...


class OwnerStore(Protocol):
    """All that one owner has, to be handed out or erased. All methods may raise Unavailable."""

    async def contexts_after(self, owner: str, id: str, limit: int) -> list[ContextRecord]:
        """The owner's contexts whose id is above `id`, by id: an order that nothing changes."""
        ...

    async def events_after(self, key: ContextKey, seq: int, limit: int) -> History:
        """The events with a seq above `seq`, in its order, until their bodies exceed `limit` bytes (one at least);
        where no more are left (`has_more` False), those without seq as well, read in the same transaction. Empty for
        an unknown context."""
        ...

    async def all_sessions(self, owner: str) -> list[SessionRecord]:
        """The owner's sessions, expired or not, the last put first."""
        ...

    async def delete_sessions(self, owner: str) -> int: ...

    async def keys_of(self, tenant: str, subject: str) -> list[KeyRecord]:
        """The subject's API keys, oldest first."""
        ...

    async def scrub(self) -> bool:
        """Return once nothing that was deleted before this call can be read from the disk any more, in whatever file.
        False where that could not be done, because another process uses them, and is left to a later call."""
        ...


class UsageStore(Protocol):
    """What model calls used, added up by owner, day, context and model. A call that made an event is added with the
    event (NewEvent.usage), in its transaction. All methods may raise Unavailable."""

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        """Add a model call that made no event; False, and nothing added, where the owner's `id` was added before. Ids
        are remembered for a week of `usage.day`s at least. Where the context is gone the sum is kept without it."""
        ...

    async def usage(
        self,
        tenant: str,
        owner: str | None,
        first: str,
        last: str,
        by: UsageBy,
        after: str | None,
        limit: int,
    ) -> UsagePage:
        """What was used from the day `first` to `last`, both included, by an owner, or by its whole tenant (None):
        the first `limit` names above `after`."""
        ...
