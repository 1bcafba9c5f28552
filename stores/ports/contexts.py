"""The context store: what is durable of conversations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from protocol.frames import WhenBusy
from stores.records import (
    Accepted,
    Call,
    CancelRequest,
    Claimed,
    ContextKey,
    ContextRecord,
    EventRow,
    History,
    NewEvent,
    NewTurn,
    Recorded,
    Remembered,
    Sender,
    Summary,
    ThreadRows,
    Turn,
    TurnRows,
    Written,
)

__all__ = ["ContextStore"]


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
        so whoever runs one meets Fenced. Its owner's sessions don't list it any more, whether or not there was one."""
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
        sender: Sender | None = None,
    ) -> Accepted:
        """Store a message (or a direct `tool_call`) with its turn, if any; creates the context where missing.

        The same event id again is a `duplicate` that changes nothing, whatever else differs. `when_busy` looks at the
        context's unended "message" turns: "reject" raises Busy where there is one; "interrupt" marks the one that
        runs or is parked as cancelled, a parked one becoming RUNNING without runner, and puts the new turn before all
        queued ones; "queue" and "steer" wait their turn. Raises Busy too where `queue_length` of them wait already,
        and where a later socket of the `sender`'s session was refused the same event so (the newest 32 refusals of a
        context are remembered): what was refused is not stored, also not by a copy that comes late. Raises IdTaken.
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
        no such call exists or it is not a client's of that session (None: of any), Undecided where a person is to
        decide first, AlreadyAnswered also where one decided against it, or the turn is over. The event's `turn_id`
        must be the call's."""
        ...

    async def approve(self, key: ContextKey, event: NewEvent, remember: Remembered | None = None) -> Accepted:
        """Store a `tool_approval` (`event.decides`) and wake the turn if it is parked; with it what to `remember`, in
        place of what was before, until the context is deleted. Raises NotFound where no such call exists or it needs
        no approval, AlreadyAnswered where it was decided or answered."""
        ...

    async def remembered(self, key: ContextKey, definition: str) -> bool | None:
        """What was decided for the context: whether it is approved; None where nothing is remembered."""
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

    async def claim(self, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
        """Take the turn if its fence still is `fence`: set runner and state (RUNNING unless ENDED), raise the fence
        by one; answers the turn as it is then, with all that is stored of it. None where somebody else did, it is DONE,
        or it is a queued "message" turn while another one of its context is RUNNING, PARKED or ENDED."""
        ...

    async def load_turn(self, key: ContextKey, turn_id: str) -> TurnRows | None: ...

    async def inputs(
        self, key: ContextKey, turn_id: str, after: int
    ) -> tuple[list[EventRow], list[CancelRequest], bool]:
        """What was stored for the turn with an `order` above `after`: all its events (the runner's own too), its
        cancels, and whether the turn as a whole is cancelled."""
        ...

    async def write(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent]) -> Written:
        """Store a turn's events, in order. An id that is stored already is passed over; so is a `tool_response` to a
        call that has one or, where it is `undecided`, was decided. A `tool_call` opens its ledger row and, where it has
        a draft, replaces the turn's draft. Raises Fenced."""
        ...

    async def claim_call(self, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
        """Note that the call is about to run; False where it is answered. Raises Fenced."""
        ...

    async def end_turn(
        self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int
    ) -> Written | None:
        """Store the turn's last events, `turn_end` among them, as `write` does, and make it ENDED; None, and nothing
        stored, where a cancel of the turn, or an event of it that the runner did not write (as in `park`), with an
        `order` above `seen` is there. Raises Fenced."""
        ...

    async def park(self, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None = None) -> bool:
        """Make the turn PARKED without runner, until `wake_at` (seconds since 1970) at most; False where it was
        cancelled (nobody would wake it), or where an event that the runner did not write, or a cancel, with an `order`
        above `seen` is there. (The runner did not write steering messages, approvals, and answers stored by `answer`.)
        Raises Fenced."""
        ...

    async def release(self, key: ContextKey, turn_id: str, fence: int) -> None:
        """Give the turn up so that anyone may claim it at once; does nothing where the fence is not the caller's."""
        ...

    # -- seqs and recovery

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
        """Note the seq of stored events, where they have none; an ENDED turn all of whose events have one becomes
        DONE. Ids that the store does not have are passed over. None, and nothing noted, where `epoch` is not the
        context's (or the context is gone)."""
        ...

    async def unsequenced(self, key: ContextKey, turn_id: str | None = None) -> list[tuple[EventRow, bool]]:
        """The context's (or the turn's) events without seq, in the order of storing, each with whether its turn has
        a runner (RUNNING or ENDED): those are the runner's to append."""
        ...

    async def stray_contexts(self, limit: int) -> list[ContextKey]:
        """Contexts with events without seq whose turn, if any, has no runner; those whose events were stored first
        come first (of several shards, each one's in turn)."""
        ...

    async def turns_to_run(self, alive: Collection[str] | None, limit: int) -> list[Turn]:
        """Turns that want a runner, oldest first: RUNNING or ENDED ones whose runner is None or not in `alive` (None:
        who lives is not known), PARKED
        ones that are to be woken by now, and what `next_turn` gives for each context. It costs nothing that others are
        parked."""
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

    async def check(self) -> None:
        """Raises Unavailable where the store can't be asked now."""
        ...

    async def close(self) -> None: ...
