"""Drives one turn: carries out what the turn machine asks of model, tools, store and log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import structlog

from gateway.core.stored_turn import StoredTurn
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import (
    Append,
    CallModel,
    Effect,
    End,
    Park,
    Publish,
    RunTool,
    StopModel,
    StopTool,
    Store,
)
from gateway.metering import TurnMeter
from gateway.models.port import CallReady, Finish, ModelError, ModelPiece, TextPiece
from gateway.outbox import Outbox, live
from gateway.patience import patiently
from gateway.run_services import RunServices
from gateway.run_start import take_up, unsaid
from gateway.stored_events import new_event
from gateway.tools.port import ToolContext
from gateway.turn_request import TurnRequest, decode_request
from protocol.codec import decode_durable
from protocol.errors import ErrorCode
from protocol.frames import DurableEvent, ErrorBody, Message, ToolApproval, ToolCall, ToolResponse
from protocol.ids import new_id
from stores.ports import EpochOver, Fenced, NotFound, StaleFence, StoreError
from stores.records import CancelRequest, Claimed, EventRow, LogBatch, LogEvent, LogFold

__all__ = ["Run"]

_log = structlog.get_logger(__name__)
_POLL = 1.0
_SHORTER = 8
_ANY = 1 << 62


class _Finished(Exception):
    """The run is over: its turn has ended, or is parked."""


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
        self._machine: TurnMachine
        self._outbox: Outbox
        # One input at a time, effects included: the order of the machine is the order of store and log.
        self._lock = asyncio.Lock()
        self._poke = asyncio.Event()
        self._refusal: StoreError | None = None
        self._tasks: asyncio.TaskGroup
        self._model: asyncio.Task[None] | None = None
        self._tools: dict[str, tuple[asyncio.Task[None], ToolContext]] = {}
        self._own: set[str] = set()
        self._seen = 0
        self._meter = TurnMeter(services.meter, self.request.principal, turn.key, turn.id)
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
                    self._machine, self._outbox, found = await take_up(
                        self._services,
                        self._claimed,
                        self.stored,
                        self.request,
                        self._begun_before,
                        self._claimed_in,
                    )
                    self._own, self._seen = found.known, found.seen
                    self._services.publisher.mark(self)
                    await self._carry_out(self._machine.begin(found.recovered))
                    if found.over:
                        await self._see_off()
                await self._watch()
        except* _Finished:
            pass
        except* (Fenced, NotFound):
            _log.info("a turn was taken over or deleted", turn=self.turn.id, fence=self.turn.fence)
            self._services.stats.fenced()
            await self._meter.settle(self._services.store, self.request.model, lambda: self._machine.written)

    async def _watch(self) -> None:
        """Read what is stored for the turn whenever somebody says so, and each second in case nobody did."""
        while True:
            try:
                async with asyncio.timeout(_POLL):
                    await self._poke.wait()
            except TimeoutError:
                pass
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
                await self._carry_out(self._machine.approval(event), approval_id=row.id)
            elif isinstance(event, ToolResponse):
                await self._carry_out(self._machine.answered(event))
            elif isinstance(event, Message):
                await self._carry_out(self._machine.steer(event))
        for cancel in cancels:
            self._seen = max(self._seen, cancel.order)
            if cancel.call_id is not None:
                await self._carry_out(self._machine.cancel_call(cancel.call_id))
        if cancelled:
            await self._carry_out(self._machine.cancel())

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
        again = [live(effect.event) for effect in self._machine.republish() if isinstance(effect, Publish)]
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

    async def _step(self, step: Callable[[], list[Effect]]) -> None:
        async with self._lock:
            await self._carry_out(step())

    async def _carry_out(self, effects: Sequence[Effect], approval_id: str | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self._push(live(effect.event))
            elif isinstance(effect, Store):
                await self._store(effect.events)
            elif isinstance(effect, Append):
                row = new_event(effect.event, frame_id=approval_id)
                self._push(LogEvent(event=effect.event, body=row.body, id=row.id))
            elif isinstance(effect, CallModel):
                self._model = self._tasks.create_task(self._call_model(effect))
            elif isinstance(effect, StopModel):
                self._cancel(self._model)
            elif isinstance(effect, RunTool):
                await self._run_tool(effect)
            elif isinstance(effect, StopTool):
                self._stop_tool(effect.call_id)
            elif isinstance(effect, Park):
                await self._park()
            else:
                await self._end(effect)

    def _push(self, event: LogEvent) -> None:
        self._outbox.put(event)
        self._services.publisher.mark(self)

    async def _store(self, events: Sequence[DurableEvent]) -> None:
        written = self._machine.written
        rows = [new_event(event, draft=written if isinstance(event, ToolCall) else None) for event in events]
        rows = self._meter.metered(rows, events)
        turn = self.turn
        await self._services.checkpoint("write")
        written = await patiently(lambda: self._services.store.write(turn.key, turn.id, turn.fence, rows))
        self.stored.wrote(turn.id, rows, written)
        self._meter.stored(rows, written.passed)
        await self._services.checkpoint("written")
        for event, row in zip(events, rows, strict=True):
            # What was passed over was stored before: by a write whose reply was lost, or somebody else's answer.
            if row.id in written.passed and isinstance(event, ToolResponse):
                await self._push_stored(event.tool_call_id)
            else:
                self._own.add(row.id)
                self._push(LogEvent(event=event, body=row.body, id=row.id))

    async def _park(self) -> None:
        await self._outbox_emptied()
        turn = self.turn
        await self._services.checkpoint("park")
        if await patiently(lambda: self._services.store.park(turn.key, turn.id, turn.fence, self._seen)):
            raise _Finished
        self._poke.set()

    async def _end(self, effect: End) -> None:
        turn = self.turn
        rows = self._meter.metered([new_event(event) for event in effect.events], effect.events)
        seen = self._seen if effect.may_continue else _ANY
        await self._services.checkpoint("end")
        ended = await patiently(lambda: self._services.store.end_turn(turn.key, turn.id, turn.fence, rows, seen))
        await self._services.checkpoint("ended")
        if ended is None:
            await self._carry_out(self._machine.go_on())
            await self._heed_inputs(*await self._inputs())
            return
        self.stored.wrote(turn.id, rows, ended)
        self._meter.stored(rows)
        self._machine.ended()
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
                raise _Finished
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
                await asyncio.wait((emptied, poked), return_when=asyncio.FIRST_COMPLETED)
                poked.cancel()
        finally:
            emptied.cancel()

    # ---- the model

    async def _call_model(self, effect: CallModel) -> None:
        try:
            await self._services.backoff(effect.retry)
            await self._ask(effect.reads)
        except ModelError as error:
            body = ErrorBody(
                code=error.code, message=error.message, retryable=error.retryable, retry_after=error.retry_after
            )
            await self._step(lambda: self._machine.failed(body))
        except (StoreError, _Finished):
            raise
        except Exception:  # noqa: BLE001 - the boundary to an adapter: its bug ends the turn and leaves it not hanging
            body = internal_error("the model's adapter failed", turn=self.turn.id)
            await self._step(lambda: self._machine.failed(body))

    async def _ask(self, reads: str | None) -> None:
        """Ask the model, with less and less of the conversation where its provider finds it too long."""
        most: float | None = None
        for shorter in range(_SHORTER + 1):
            prompt = await self._services.assembler.assemble(self.turn, self.request, self.stored, reads, most)
            self._meter.asked = prompt.tokens
            begun = False
            try:
                with self._services.stats.step() as first_token:
                    async with aclosing(self._services.models[self.request.model].stream(prompt.request)) as pieces:
                        async for piece in pieces:
                            begun = True
                            first_token()
                            if isinstance(piece, Finish) and piece.model is None:
                                prompt.counted(piece.usage)
                            await self._take(piece)
                return
            except ModelError as error:
                if error.code != "context_too_long" or begun or shorter == _SHORTER:
                    raise
                most = 0.75 * prompt.tokens
                prompt.scale.too_low()

    async def _take(self, piece: ModelPiece) -> None:
        if isinstance(piece, TextPiece):
            if self._lock.locked():
                await self._step(lambda: self._machine.text(piece.text, piece.channel))
                return
            # The hot path: nothing to wait for, so nobody has to be woken.
            for effect in self._machine.text(piece.text, piece.channel):
                if isinstance(effect, Publish):
                    self._push(live(effect.event))
        elif isinstance(piece, CallReady):
            route = await self._services.routes.route(self.request, piece)
            await self._step(lambda: self._machine.call(piece.tool, piece.parameters, route))
        else:
            await self._step(lambda: self._machine.finish(piece.reason, piece.usage, piece.model))

    def _cancel(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    # ---- tools

    async def _run_tool(self, effect: RunTool) -> None:
        turn, call_id = self.turn, effect.call_id
        await self._services.checkpoint("claim")
        store = self._services.store
        if not await patiently(lambda: store.claim_call(turn.key, turn.id, turn.fence, call_id)):
            self._poke.set()
            return
        await self._services.checkpoint("claimed")

        def report(progress: float, total: float | None, message: str | None) -> None:
            for event in self._machine.tool_progress(call_id, progress, total, message):
                if isinstance(event, Publish):
                    self._push(live(event.event))

        context = ToolContext(self.request.principal, turn.key.id, call_id, report)
        self._tools[call_id] = (self._tasks.create_task(self._use_tool(effect, context)), context)

    async def _use_tool(self, effect: RunTool, context: ToolContext) -> None:
        try:
            outcome = await self._services.routes.run(effect.tool, context, effect.parameters)
            if outcome.status == "cancelled":
                await self._step(lambda: self._machine.cancel_call(effect.call_id))
                return
            error = None
            if outcome.status == "error" and outcome.code is not None:
                error = error_body(outcome.code, str(outcome.result))
            status = outcome.status
            await self._step(lambda: self._machine.tool_done(effect.call_id, status, outcome.result, error))
        finally:
            self._tools.pop(effect.call_id, None)

    def _stop_tool(self, call_id: str) -> None:
        task, context = self._tools.pop(call_id, (None, None))
        if context is not None:
            context.cancel()
        self._cancel(task)


def error_body(code: ErrorCode, message: str) -> ErrorBody:
    return ErrorBody(code=code, message=message, retryable=False)


def internal_error(what: str, **where: str) -> ErrorBody:
    """Our own failure, logged with the id that the user is told."""
    error_id = new_id("err_")
    _log.exception(what, error_id=error_id, **where)
    return ErrorBody(code="internal", message=f"An internal error occurred ({error_id}).", retryable=False)
