"""A ContextStore of plain dictionaries: the port's contract (stores/ports) in its shortest form, for tests that
crash, restart and interleave thousands of times. What it holds outlives the instances that use it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from protocol.frames import WhenBusy
from stores.audit_records import AuditPage, AuditQuery, AuditRecord
from stores.ports import AlreadyAnswered, Busy, Fenced, IdTaken, NotFound, Undecided
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
    NewUsage,
    Pin,
    Recorded,
    Remembered,
    Sender,
    Summary,
    ThreadRows,
    Turn,
    TurnRows,
    TurnState,
    UsageBy,
    UsagePage,
    Written,
)
from stores.refusals import note, was_refused
from tests.reference_audit import ReferenceAudit
from tests.reference_usage import ReferenceUsage

__all__ = ["ReferenceStore"]

_ACTIVE = (TurnState.RUNNING, TurnState.PARKED)
_OWNED = (TurnState.RUNNING, TurnState.ENDED)


class _Context:
    def __init__(self, key: ContextKey, epoch: int) -> None:
        self.newest = 0  # the highest order
        self.record = ContextRecord(key=key, epoch=epoch, created_at=0, updated_at=0, born=epoch)
        self.rows: dict[str, EventRow] = {}
        self.stored_at: dict[str, float] = {}
        self.turns: dict[str, Turn] = {}
        self.calls: dict[str, Call] = {}
        self.answers: dict[str, str] = {}
        self.cancels: dict[str, CancelRequest] = {}
        self.foreign: set[str] = set()  # ids of what the runner did not write
        self.refused: bytes | None = None
        self.front: list[str] = []  # queued turns that go before the others
        self.pins: dict[str, Pin] = {}
        self.summaries: dict[str, Summary] = {}
        self.remembered: dict[str, bool] = {}
        self.wake_at: dict[str, float] = {}  # of turns that were parked


class ReferenceStore:
    """Every call yields once before it acts, as I/O would, and then acts whole. `turns` and `rows` are for looking."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._clock = clock
        self._contexts: dict[ContextKey, _Context] = {}
        self._turns = 0  # how many there ever were
        self._usage = ReferenceUsage()
        self._audit = ReferenceAudit()
        self._first_epoch = 0  # above that of every context that was deleted

    def turns(self) -> list[Turn]:
        return [turn for context in self._contexts.values() for turn in context.turns.values()]

    def rows(self, key: ContextKey) -> list[EventRow]:
        """A context's events in the order of storing."""
        return list(self._contexts[key].rows.values()) if key in self._contexts else []

    # -- inside

    def _insert(self, context: _Context, event: NewEvent) -> None:
        context.newest += 1
        context.rows[event.id] = EventRow(
            id=event.id,
            type=event.type,
            body=event.body,
            order=context.newest,
            turn_id=event.turn_id,
            stored_at=self._clock(),
        )
        if event.usage is not None:
            self._usage.add(context.record.key, event.usage)
        if event.audit is not None:
            self._audit.add(event.audit)
        context.stored_at[event.id] = 0.0  # long ago: whoever looks finds it at once
        if event.call is not None and event.turn_id is not None:
            context.calls[event.id] = Call(
                id=event.id,
                turn_id=event.turn_id,
                runs_on=event.call.runs_on,
                session_id=event.call.session_id,
                needs_approval=event.call.needs_approval,
                decided=False,
                claimed=0,
                answered=False,
                asked=event.call.asked,
            )
            if event.call.draft is not None:
                turn = context.turns[event.turn_id]
                context.turns[event.turn_id] = replace(turn, draft=event.call.draft)
        if event.pinned:
            context.pins[event.id] = Pin(event.id, event.turn_id)
        if event.answers is not None:
            context.calls[event.answers] = replace(context.calls[event.answers], answered=True)
            context.answers[event.answers] = event.id
        if event.decides is not None:
            context.calls[event.decides] = replace(context.calls[event.decides], decided=True, denied=event.denies)

    async def _context(self, key: ContextKey) -> _Context:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None:
            raise NotFound(key.id)
        return context

    def _set(self, context: _Context, turn_id: str, **changes: object) -> None:
        context.turns[turn_id] = replace(context.turns[turn_id], **changes)

    def _duplicate(self, context: _Context, event: NewEvent) -> Accepted | None:
        known = context.rows.get(event.id)
        if known is None:
            return None
        if known.type != event.type:
            raise IdTaken(event.id)
        return Accepted(duplicate=True, turn_id=known.turn_id)

    def _wake(self, context: _Context, turn_id: str) -> bool:
        if context.turns[turn_id].state is TurnState.PARKED:
            self._set(context, turn_id, state=TurnState.RUNNING, runner=None)
            return True
        return False

    async def _fenced(self, key: ContextKey, turn_id: str, fence: int) -> _Context:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None or turn_id not in context.turns or context.turns[turn_id].fence != fence:
            raise Fenced
        return context

    # -- contexts

    async def create_context(
        self, key: ContextKey, title: str | None, metadata: bytes | None, settings: bytes | None = None
    ) -> bool:
        await asyncio.sleep(0)
        if key in self._contexts:
            return False
        context = self._contexts[key] = _Context(key, self._first_epoch)
        context.record = replace(context.record, title=title, metadata=metadata, settings=settings)
        return True

    async def get_context(self, key: ContextKey) -> ContextRecord | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        return context.record if context else None

    async def list_contexts(self, owner: str, after: str | None, limit: int) -> tuple[list[ContextRecord], str | None]:
        await asyncio.sleep(0)
        return [context.record for key, context in self._contexts.items() if key.owner == owner][:limit], None

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
        context = await self._context(key)
        record = context.record
        if (if_untitled and record.title is not None) or born not in (None, record.born):
            return False
        if pins is not None:
            messages = {id: row for id, row in context.rows.items() if row.type == "message"}
            if not messages.keys() >= set(pins):
                raise NotFound
            context.pins = {id: Pin(id, messages[id].turn_id) for id in pins}
        context.record = replace(
            record,
            title=record.title if title is None else title,
            metadata=record.metadata if metadata is None else metadata,
            settings=record.settings if settings is None else settings,
        )
        self._insert(context, event)
        return True

    async def delete_context(self, key: ContextKey) -> bool:
        await asyncio.sleep(0)
        context = self._contexts.pop(key, None)
        if context is None:
            return False
        self._first_epoch = max(self._first_epoch, context.record.epoch + 1)
        self._usage.forget(key)
        return True

    async def raise_epoch(self, key: ContextKey, expected: int) -> tuple[int, int] | None:
        context = await self._context(key)
        if context.record.epoch != expected:
            return None
        context.record = replace(context.record, epoch=expected + 1)
        return expected + 1, max((row.seq or 0 for row in context.rows.values()), default=0)

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
        await asyncio.sleep(0)
        created = key not in self._contexts
        context = self._contexts.get(key) or _Context(key, self._first_epoch)
        known = self._duplicate(context, event)
        if known is not None:
            return known
        if was_refused(context.refused, event.id, sender):
            raise Busy
        interrupted: str | None = None
        waiting = [t for t in context.turns.values() if t.kind == "message" and t.state in (*_ACTIVE, TurnState.QUEUED)]
        if turn is not None and turn.kind == "message":
            queued = sum(t.state is TurnState.QUEUED for t in waiting)
            if queued >= queue_length or (waiting and when_busy == "reject"):
                if sender is not None:
                    context.refused = note(context.refused, event.id, sender)
                raise Busy
            if waiting and when_busy == "interrupt":
                context.front.insert(0, turn.id)
                active = self._active(context)
                if active is not None:
                    interrupted = active.id
                    self._set(context, active.id, cancelled=True)
                    self._wake(context, active.id)
        self._contexts[key] = context
        if turn is not None:
            self._turns += 1
            context.turns[turn.id] = Turn(
                key=key,
                id=turn.id,
                kind=turn.kind,
                state=TurnState.QUEUED,
                request=turn.request,
                fence=0,
                created_at=float(self._turns),
            )
        self._insert(context, event)
        epoch = context.record.epoch if not created else None
        return Accepted(created=created, turn_id=event.turn_id, interrupted=interrupted, epoch=epoch)

    async def steer(self, key: ContextKey, turn_id: str, event: NewEvent) -> Accepted | None:
        context = await self._context(key)
        known = self._duplicate(context, event)
        if known is not None:
            return known
        turn = context.turns.get(turn_id)
        if turn is None or turn.kind != "message" or turn.state not in _ACTIVE or turn.cancelled:
            return None
        self._insert(context, event)
        context.foreign.add(event.id)
        return Accepted(turn_id=turn_id, woken=self._wake(context, turn_id))

    async def cancel(self, key: ContextKey, id: str, turn_id: str | None, call_id: str | None) -> Accepted:
        context = await self._context(key)
        if id in context.cancels:
            return Accepted(duplicate=True, turn_id=context.cancels[id].turn_id or None)
        if call_id is not None:
            if call_id not in context.calls or turn_id not in (None, context.calls[call_id].turn_id):
                raise NotFound(call_id)
            turn_id = context.calls[call_id].turn_id
        elif turn_id is None:
            active = self._active(context)
            turn_id = active.id if active is not None else None
            if turn_id is None:
                # Kept all the same: the id means nothing else later.
                context.newest += 1
                context.cancels[id] = CancelRequest(id=id, turn_id="", call_id=None, order=context.newest)
                return Accepted()
        if turn_id not in context.turns:
            raise NotFound(turn_id)
        context.newest += 1
        context.cancels[id] = CancelRequest(id=id, turn_id=turn_id, call_id=call_id, order=context.newest)
        if call_id is None and context.turns[turn_id].state in (*_ACTIVE, TurnState.QUEUED):
            self._set(context, turn_id, cancelled=True)
            if context.turns[turn_id].state is TurnState.QUEUED:
                self._set(context, turn_id, state=TurnState.RUNNING, runner=None)
                return Accepted(turn_id=turn_id, woken=True)
        return Accepted(turn_id=turn_id, woken=self._wake(context, turn_id))

    async def answer(self, key: ContextKey, event: NewEvent, session_id: str | None) -> Accepted:
        context = await self._context(key)
        known = self._duplicate(context, event)
        if known is not None:
            return known
        call = context.calls.get(event.answers or "")
        if call is None or call.runs_on != "client" or session_id not in (None, call.session_id):
            raise NotFound
        turn = context.turns[call.turn_id]
        if call.answered or call.denied or turn.state not in (TurnState.QUEUED, *_ACTIVE):
            raise AlreadyAnswered
        if call.needs_approval and not call.decided:
            raise Undecided
        self._insert(context, event)
        context.foreign.add(event.id)
        return Accepted(turn_id=call.turn_id, woken=self._wake(context, call.turn_id))

    async def approve(self, key: ContextKey, event: NewEvent, remember: Remembered | None = None) -> Accepted:
        context = await self._context(key)
        known = self._duplicate(context, event)
        if known is not None:
            return known
        call = context.calls.get(event.decides or "")
        if call is None or not call.needs_approval:
            raise NotFound
        if call.decided or call.answered:
            raise AlreadyAnswered
        self._insert(context, event)
        context.foreign.add(event.id)
        if remember is not None:
            context.remembered[remember.definition] = remember.approved
        return Accepted(turn_id=call.turn_id, woken=self._wake(context, call.turn_id))

    async def remembered(self, key: ContextKey, definition: str) -> bool | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        return context.remembered.get(definition) if context is not None else None

    async def get_call(self, key: ContextKey, call_id: str) -> Call | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        return context.calls.get(call_id) if context else None

    # -- what a turn's runner does

    async def active_turn(self, key: ContextKey) -> Turn | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        return self._active(context) if context is not None else None

    def _active(self, context: _Context) -> Turn | None:
        turns = [turn for turn in context.turns.values() if turn.kind == "message" and turn.state in _ACTIVE]
        return min(turns, key=lambda turn: turn.cancelled, default=None)  # dicts keep the order

    async def next_turn(self, key: ContextKey) -> Turn | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        return self._next(context) if context else None

    def _next(self, context: _Context) -> Turn | None:
        messages = [turn for turn in context.turns.values() if turn.kind == "message"]
        if any(turn.state in (*_ACTIVE, TurnState.ENDED) for turn in messages):
            return None
        queued = {turn.id: turn for turn in messages if turn.state is TurnState.QUEUED}
        return next((queued[name] for name in [*context.front, *queued] if name in queued), None)

    async def claim(self, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        turn = context.turns.get(turn_id) if context else None
        if context is None or turn is None or turn.fence != fence or turn.state is TurnState.DONE:
            return None
        others = [t for t in context.turns.values() if t.kind == "message" and t.id != turn_id]
        blocked = any(other.state in (*_ACTIVE, TurnState.ENDED) for other in others)
        if blocked and turn.state is TurnState.QUEUED and turn.kind == "message":
            return None
        state = turn.state if turn.state is TurnState.ENDED else TurnState.RUNNING
        self._set(context, turn_id, runner=runner, fence=fence + 1, state=state)
        return Claimed(rows=self._rows_of(context, turn_id), newest=context.newest, born=context.record.born)

    async def load_turn(self, key: ContextKey, turn_id: str) -> TurnRows | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None or turn_id not in context.turns:
            return None
        return self._rows_of(context, turn_id)

    def _rows_of(self, context: _Context, turn_id: str) -> TurnRows:
        return TurnRows(
            turn=context.turns[turn_id],
            events=[row for row in context.rows.values() if row.turn_id == turn_id],
            calls={call.id: call for call in context.calls.values() if call.turn_id == turn_id},
            cancels=[cancel for cancel in context.cancels.values() if cancel.turn_id == turn_id],
        )

    async def inputs(
        self, key: ContextKey, turn_id: str, after: int
    ) -> tuple[list[EventRow], list[CancelRequest], bool]:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None or turn_id not in context.turns:
            return [], [], False
        rows = [row for row in context.rows.values() if row.turn_id == turn_id and row.order > after]
        cancels = [cancel for cancel in context.cancels.values() if cancel.turn_id == turn_id and cancel.order > after]
        return rows, cancels, context.turns[turn_id].cancelled

    async def write(self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent]) -> Written:
        context = await self._fenced(key, turn_id, fence)
        return self._write(context, events)

    def _write(self, context: _Context, events: Sequence[NewEvent]) -> Written:
        passed: list[str] = []
        for event in events:
            decided = event.undecided and context.calls[event.answers or ""].decided
            if event.id in context.rows or decided or (event.answers is not None and event.answers in context.answers):
                passed.append(event.id)
            else:
                self._insert(context, event)
        return Written(passed=passed, newest=context.newest)

    async def claim_call(self, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
        context = await self._fenced(key, turn_id, fence)
        if context.calls[call_id].answered:
            return False
        context.calls[call_id] = replace(context.calls[call_id], claimed=fence)
        return True

    async def end_turn(
        self, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int
    ) -> Written | None:
        context = await self._fenced(key, turn_id, fence)
        if self._unseen(context, turn_id, seen):
            return None
        written = self._write(context, events)
        if context.turns[turn_id].state is not TurnState.DONE:
            self._set(context, turn_id, state=TurnState.ENDED)
        return written

    def _unseen(self, context: _Context, turn_id: str, seen: int) -> bool:
        rows = (row for row in context.rows.values() if row.id in context.foreign and row.turn_id == turn_id)
        cancels = (cancel for cancel in context.cancels.values() if cancel.turn_id == turn_id)
        return any(row.order > seen for row in rows) or any(cancel.order > seen for cancel in cancels)

    async def park(self, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None = None) -> bool:
        context = await self._fenced(key, turn_id, fence)
        if context.turns[turn_id].cancelled or self._unseen(context, turn_id, seen):
            return False
        self._set(context, turn_id, state=TurnState.PARKED, runner=None)
        context.wake_at[turn_id] = math.inf if wake_at is None else wake_at
        return True

    async def release(self, key: ContextKey, turn_id: str, fence: int) -> None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is not None and turn_id in context.turns and context.turns[turn_id].fence == fence:
            self._set(context, turn_id, runner=None)

    # -- seqs and recovery

    async def record(self, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None or context.record.epoch != epoch:
            return None
        for event_id, seq in seqs.items():
            row = context.rows.get(event_id)
            if row is not None and row.seq is None:
                context.rows[event_id] = replace(row, seq=seq)
        without = {row.turn_id for row in context.rows.values() if row.seq is None}
        turns = list(context.turns.values())
        done = frozenset(turn.id for turn in turns if turn.state is TurnState.ENDED and turn.id not in without)
        for id in done:
            self._set(context, id, state=TurnState.DONE, runner=None)
        waiting = any(turn.kind == "message" and turn.state is TurnState.QUEUED for turn in turns)
        return Recorded(done=done, waiting=waiting)

    async def unsequenced(self, key: ContextKey, turn_id: str | None = None) -> list[tuple[EventRow, bool]]:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None:
            return []
        rows = [row for row in context.rows.values() if row.seq is None and turn_id in (None, row.turn_id)]
        return [(row, self._owned(context, row)) for row in rows]

    def _owned(self, context: _Context, row: EventRow) -> bool:
        return row.turn_id in context.turns and context.turns[row.turn_id or ""].state in _OWNED

    async def stray_contexts(self, limit: int) -> list[ContextKey]:
        await asyncio.sleep(0)
        since: dict[ContextKey, float] = {}
        for key, context in self._contexts.items():
            for row in context.rows.values():
                if row.seq is None and not self._owned(context, row):
                    since[key] = min(since.get(key, math.inf), context.stored_at[row.id])
        return sorted(since, key=lambda key: since[key])[:limit]

    async def turns_to_run(self, alive: Collection[str] | None, limit: int) -> list[Turn]:
        await asyncio.sleep(0)
        found: list[Turn] = []
        for context in self._contexts.values():
            for turn in context.turns.values():
                gone = turn.runner is None or (alive is not None and turn.runner not in alive)
                found += [turn] if turn.state in _OWNED and gone else []
            found += [t for t in context.turns.values() if t.kind == "tool" and t.state is TurnState.QUEUED]
            parked = [turn for turn in context.turns.values() if turn.state is TurnState.PARKED]
            found += [turn for turn in parked if context.wake_at[turn.id] <= self._clock()]
            following = self._next(context)
            found += [following] if following is not None else []
        return sorted(found, key=lambda turn: turn.created_at)[:limit]

    # -- reading

    async def history(self, key: ContextKey, before: int | None, limit: int) -> History:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None:
            return History([], [], has_more=False)
        placed = [(row.seq, row) for row in context.rows.values() if row.seq is not None]
        rows = [row for seq, row in sorted(placed, key=lambda pair: pair[0]) if before is None or seq < before]
        without = [row for row in context.rows.values() if row.seq is None] if before is None else []
        return History(rows[-limit:], without, has_more=len(rows) > limit)

    async def find_event(self, key: ContextKey, id: str) -> EventRow | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        return context.rows.get(id) if context is not None else None

    async def thread(self, key: ContextKey, after: int | None, limit: int) -> ThreadRows | None:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None:
            return None
        newer = [row for row in context.rows.values() if row.order > (after or 0)]
        summaries = [summary for summary in context.summaries.values() if summary.order > (after or 0)]
        rows = newer[-limit:] if after is None else newer[:limit]
        return ThreadRows(context.record, rows, summaries, sorted(context.pins.values()), more=len(rows) < len(newer))

    async def older(self, key: ContextKey, before: int, limit: int) -> tuple[list[EventRow], bool]:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        rows = [row for row in context.rows.values() if row.order < before] if context is not None else []
        return rows[-limit:], len(rows) > limit

    async def put_summary(self, key: ContextKey, summary: Summary, born: int) -> bool:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None or context.record.born != born:
            return False
        context.newest += 1
        context.summaries.pop(summary.turn_id, None)
        context.summaries[summary.turn_id] = replace(summary, order=context.newest)
        return True

    async def open_calls(self, key: ContextKey, seq: int) -> list[EventRow]:
        await asyncio.sleep(0)
        context = self._contexts.get(key)
        if context is None:
            return []
        answers = {call: context.rows[answer].seq for call, answer in context.answers.items()}
        return [context.rows[call] for call in context.calls if (answers.get(call) or seq + 1) > seq]

    # -- audit

    async def audit(self, owner: str, records: Sequence[AuditRecord]) -> None:
        await asyncio.sleep(0)
        for record in records:
            self._audit.add(record)

    async def audits(self, tenant: str, query: AuditQuery, after: str | None, limit: int) -> AuditPage:
        await asyncio.sleep(0)
        return self._audit.page(tenant, query, after, limit)

    async def prune_audits(self, before: float, limit: int) -> int:
        await asyncio.sleep(0)
        return self._audit.prune(before, limit)

    # -- usage

    async def add_usage(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        await asyncio.sleep(0)
        return self._usage.add_once(key if key in self._contexts else ContextKey(key.owner, ""), id, usage)

    async def usage(
        self, tenant: str, owner: str | None, first: str, last: str, by: UsageBy, after: str | None, limit: int
    ) -> UsagePage:
        await asyncio.sleep(0)
        return self._usage.page(tenant, owner, first, last, by, after, limit)

    async def check(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        await asyncio.sleep(0)
