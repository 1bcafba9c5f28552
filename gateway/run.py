"""Drives one turn: carries out what the turn machine asks of store and log; model and tools have parts of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import structlog
from msgspec.structs import replace

from gateway.auditing import TurnAudit
from gateway.core.stored_turn import StoredTurn
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import (
    Append,
    CallModel,
    Effect,
    End,
    Expire,
    Park,
    Publish,
    RunTool,
    StopModel,
    StopTool,
    Store,
    TellTool,
)
from gateway.metering import TurnMeter
from gateway.outbox import Outbox, live
from gateway.patience import patiently
from gateway.run_driver import Finished
from gateway.run_model import ModelPart
from gateway.run_services import RunServices
from gateway.run_start import take_up, unsaid
from gateway.run_tools import ToolsPart
from gateway.stored_events import new_event
from gateway.turn_request import TurnRequest, decode_request
from protocol.codec import decode_durable
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse
from stores.ports import EpochOver, Fenced, NotFound, StaleFence, StoreError, Unavailable
from stores.records import Asked, CancelRequest, Claimed, EventRow, LogBatch, LogEvent, LogFold, NewEvent

__all__ = ["Run"]

_log = structlog.get_logger(__name__)
_POLL = 1.0
_ANY = 1 << 62


class Run:
    """One turn under one fence. `main` returns when the turn is done, parked, or somebody else's. `epoch` is that of
    the context's log as it was learnt before the claim (None: it was not)."""

    def __init__(self, services: RunServices, claimed: Claimed, begun_before: bool, epoch: int | None = None) -> None:
        self._services = services
        self._claimed = claimed
        self._claimed_in = epoch
        self.turn = turn = claimed.rows.turn
        self.stored = StoredTurn(claimed)
        self.request: TurnRequest = decode_request(turn.request)
        self._begun_before = begun_before
        self.machine: TurnMachine
        self._outbox: Outbox
        # One input at a time, effects included: the order of the machine is the order of store and log.
        self._lock = asyncio.Lock()
        self._poke = asyncio.Event()
        self._refusal: StoreError | None = None
        self._tasks: asyncio.TaskGroup
        self._model = ModelPart(self, services)
        self._tools = ToolsPart(self, services)
        self._own: set[str] = set()
        self._seen = 0
        self.meter = TurnMeter(services.meter, self.request.principal, turn.key, turn.id)
        self.audit = TurnAudit(services.auditor, self.request.principal, turn, self.stored, self.request.via)
        self.over = False  # whether the turn is done, and was so by this run
        self.waiting = True  # whether another turn of the context may wait for the end of this one

    # ---- what others may ask

    def poke(self) -> None:
        """Something was stored for the turn: look."""
        self._poke.set()

    def take(self) -> LogBatch | None:
        return self._outbox.take()

    def appended(self, batch: LogBatch, seqs: dict[str, int]) -> bool:
        self._services.recorder.note(batch.key, batch.epoch, seqs)
        return self._outbox.taken(batch)

    def refused(self, batch: LogBatch, reason: StoreError) -> None:
        if batch.epoch == self._outbox.epoch:
            self._refusal = reason
            self._poke.set()

    # ---- the run

    async def main(self) -> None:
        """Run the turn to its end, or until it is parked or was taken over."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                async with self._lock:
                    self.machine, self._outbox, found = await take_up(
                        self._services,
                        self._claimed,
                        self.stored,
                        self.request,
                        self._begun_before,
                        self._claimed_in,
                    )
                    self._own, self._seen = found.known, found.seen
                    self._services.publisher.mark(self)
                    await self._carry_out(self.machine.begin(found.recovered))
                    if found.over:
                        await self._see_off()
                await self._watch()
        except* Finished:
            pass
        except* (Fenced, NotFound):
            _log.info("a turn was taken over or deleted", turn=self.turn.id, fence=self.turn.fence)
            self._services.stats.fenced()
            await self.meter.settle(self._services.store, self.request.model, lambda: self.machine.written)
            await self.audit.settle(self._services.store)

    async def _watch(self) -> None:
        """Read what is stored for the turn whenever somebody says so, and each second in case nobody did; then look
        at the clock."""
        while True:
            try:
                async with asyncio.timeout(_POLL):
                    await self._poke.wait()
            except TimeoutError:
                await self._look_at_log()
            self._poke.clear()
            async with self._lock:
                await self._heed_refusal()
            # Not under the lock: a model talks on while the store is away.
            inputs = await self._inputs()
            async with self._lock:
                await self._heed_inputs(*inputs)

    async def _inputs(self) -> tuple[list[EventRow], list[CancelRequest], bool]:
        key, turn_id, after = self.turn.key, self.turn.id, self._seen
        return await patiently(lambda: self._services.store.inputs(key, turn_id, after))

    async def _heed_inputs(self, rows: list[EventRow], cancels: list[CancelRequest], cancelled: bool) -> None:
        """What was read may have been heeded before: that changes nothing."""
        self.stored.read(rows, cancels)
        for row in rows:
            self._seen = max(self._seen, row.order)
            if row.id in self._own:
                continue
            self._own.add(row.id)
            event = decode_durable(row.body)
            if isinstance(event, ToolApproval):
                await self._carry_out(self.machine.approval(event, row.stored_at), approval_id=row.id)
            elif isinstance(event, ToolResponse):
                await self._carry_out(self.machine.answered(event))
            elif isinstance(event, Message):
                await self._carry_out(self.machine.steer(event))
        for cancel in cancels:
            self._seen = max(self._seen, cancel.order)
            if cancel.call_id is not None:
                await self._carry_out(self.machine.cancel_call(cancel.call_id))
        if cancelled:
            await self._carry_out(self.machine.cancel())
        await self._carry_out(self.machine.tick(self._services.clock()))

    async def _look_at_log(self) -> None:
        """A lost log refuses nothing as long as nothing is said, and people can't answer what they don't see."""
        if not self.machine.waits_for_people:
            return
        try:
            epoch = await self._services.epochs.seen(self.turn.key)
        except Unavailable:
            return
        if epoch != self._outbox.epoch:
            self._refusal = self._refusal or EpochOver()

    async def _heed_refusal(self) -> None:
        """The log did not take a batch: either the turn is lost, or the log is."""
        refusal, self._refusal = self._refusal, None
        if isinstance(refusal, StaleFence):
            raise Fenced
        if isinstance(refusal, EpochOver):
            await self._rejoin()

    async def _rejoin(self) -> None:
        """Under a new epoch: what of the open message was said, then the turn's events that have no seq."""
        services, key = self._services, self.turn.key
        services.epochs.forget(key)
        fold = await self._current_fold()
        rows = await patiently(lambda: services.store.load_turn(key, self.turn.id))
        if rows is None or rows.turn.fence != self.turn.fence:
            raise Fenced
        again = [live(effect.event) for effect in self.machine.republish() if isinstance(effect, Publish)]
        stored = unsaid([row for row in rows.events if row.id in self._own], fold)
        self._outbox.restart(fold.epoch, again + stored)
        self._refusal = None  # what was refused meanwhile was of the epoch before
        services.publisher.mark(self)

    async def _current_fold(self) -> LogFold:
        """Of the log as it is, or is begun."""
        epochs, log, key = self._services.epochs, self._services.log, self.turn.key
        while True:
            epoch = await patiently(lambda: epochs.current(key))
            fold = await patiently(lambda: log.fold(key))
            if fold is not None and fold.epoch == epoch:
                return fold
            epochs.forget(key)

    # ---- effects

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    async def step(self, step: Callable[[], list[Effect]]) -> None:
        async with self._lock:
            await self._carry_out(step())

    def say(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self._push(live(effect.event))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    async def _carry_out(self, effects: Sequence[Effect], approval_id: str | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self._push(live(effect.event))
            elif isinstance(effect, Store):
                await self._store(effect.events, effect.asked)
            elif isinstance(effect, Expire):
                await self._expire(effect)
            elif isinstance(effect, Append):
                row = new_event(effect.event, frame_id=approval_id)
                self._push(LogEvent(event=effect.event, body=row.body, id=row.id))
            elif isinstance(effect, CallModel):
                self._model.call(effect)
            elif isinstance(effect, StopModel):
                self._model.stop()
            elif isinstance(effect, RunTool):
                self.audit.begins(effect.call_id)
                await self._tools.run(effect)
            elif isinstance(effect, StopTool):
                self._tools.stop(effect.call_id)
            elif isinstance(effect, TellTool):
                self._tools.tell(effect)
            elif isinstance(effect, Park):
                await self._park(effect.wake_at)
            else:
                await self._end(effect)

    def _push(self, event: LogEvent) -> None:
        self._outbox.put(event)
        self._services.publisher.mark(self)

    async def _store(self, events: Sequence[DurableEvent], asked: Asked | None = None) -> None:
        draft = self.machine.written
        rows = [
            new_event(event, draft=draft, asked=asked) if isinstance(event, ToolCall) else new_event(event)
            for event in events
        ]
        rows, passed = await self._write(rows, events)
        for event, row in zip(events, rows, strict=True):
            # What was passed over was stored before: by a write whose reply was lost, or somebody else's answer.
            if row.id in passed and isinstance(event, ToolResponse):
                await self._push_stored(event.tool_call_id)
            else:
                if isinstance(event, ToolCall):
                    self.machine.stored(event.id, self._services.clock())
                self._own.add(row.id)
                self._push(LogEvent(event=event, body=row.body, id=row.id))

    async def _expire(self, effect: Expire) -> None:
        rows = [replace(new_event(event), undecided=event.tool_call_id in effect.undecided) for event in effect.events]
        rows, passed = await self._write(rows, effect.events)
        kept = [each for each in zip(effect.events, rows, strict=True) if each[1].id not in passed]
        for event, row in kept:
            self._own.add(row.id)
            self._push(LogEvent(event=event, body=row.body, id=row.id))
        if passed:
            # What somebody else stored, or a write of ours whose reply was lost, is read like all that others store.
            self._poke.set()
        if kept:
            await self._carry_out(self.machine.expired([event.tool_call_id for event, _ in kept]))

    async def _write(
        self, rows: list[NewEvent], events: Sequence[DurableEvent]
    ) -> tuple[list[NewEvent], Collection[str]]:
        """The rows as they were stored, and the ids of those that were passed over."""
        rows, turn = self.audit.audited(self.meter.metered(rows, events), events), self.turn
        await self._services.checkpoint("write")
        written = await patiently(lambda: self._services.store.write(turn.key, turn.id, turn.fence, rows))
        self.stored.wrote(turn.id, rows, written)
        self.meter.stored(rows, written.passed)
        await self._services.checkpoint("written")
        return rows, written.passed

    async def _park(self, wake_at: float | None) -> None:
        await self._outbox_emptied()
        turn = self.turn
        await self._services.checkpoint("park")
        if await patiently(lambda: self._services.store.park(turn.key, turn.id, turn.fence, self._seen, wake_at)):
            raise Finished
        self._poke.set()

    async def _end(self, effect: End) -> None:
        turn = self.turn
        rows = self.meter.metered([new_event(event) for event in effect.events], effect.events)
        rows = self.audit.audited(rows, effect.events)
        seen = self._seen if effect.may_continue else _ANY
        await self._services.checkpoint("end")
        ended = await patiently(lambda: self._services.store.end_turn(turn.key, turn.id, turn.fence, rows, seen))
        await self._services.checkpoint("ended")
        if ended is None:
            await self._carry_out(self.machine.go_on())
            await self._heed_inputs(*await self._inputs())
            return
        self.stored.wrote(turn.id, rows, ended)
        self.meter.stored(rows)
        self.machine.ended()
        self._services.stats.turn_ended(effect.events[-1])
        if effect.may_continue:
            for event, row in zip(effect.events, rows, strict=True):
                self._own.add(row.id)
                self._push(LogEvent(event=event, body=row.body, id=row.id))
        else:
            await self._push_stored()
        await self._see_off()

    async def _push_stored(self, call_id: str | None = None) -> None:
        """Say what is stored for the turn and was not said: the answer to a call, or all that is left at an end that
        nothing holds up, which others may have got ahead of."""
        key, turn_id = self.turn.key, self.turn.id
        rows, _, _ = await patiently(lambda: self._services.store.inputs(key, turn_id, self._seen))
        for row in rows:
            event = decode_durable(row.body)
            answers = event.tool_call_id if isinstance(event, ToolResponse) else None
            if row.id not in self._own and call_id in (None, answers):
                self._own.add(row.id)
                self._push(LogEvent(event=event, body=row.body, id=row.id))

    async def _see_off(self) -> None:
        """The turn stays ours until the store knows the seq of all of its events."""
        key, turn_id = self.turn.key, self.turn.id
        store, recorder = self._services.store, self._services.recorder
        while True:
            await self._outbox_emptied()
            await self._services.checkpoint("record")
            recorded = await patiently(lambda: recorder.flush(key))
            done = recorded is not None and turn_id in recorded.done
            if done or (recorded is not None and not await patiently(lambda: store.unsequenced(key, turn_id))):
                self.waiting = not done or recorded is None or recorded.waiting
                self.over = True
                raise Finished
            await self._rejoin()

    async def _outbox_emptied(self) -> None:
        """Wait for the log to take everything, whatever it refuses meanwhile."""
        emptied = asyncio.ensure_future(self._outbox.emptied())
        try:
            while not emptied.done():
                self._poke.clear()
                if self._refusal is not None:
                    await self._heed_refusal()
                    continue
                poked = asyncio.ensure_future(self._poke.wait())
                try:
                    await asyncio.wait((emptied, poked), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    poked.cancel()
        finally:
            emptied.cancel()
