"""How a runner takes up a turn, fresh or left by another (docs/design.md, Turns)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from gateway.core.deadlines import since_when
from gateway.core.stored_turn import StoredTurn
from gateway.core.turn import TurnMachine
from gateway.core.turn_state import Recovered, Written
from gateway.outbox import Outbox, live
from gateway.patience import patiently
from gateway.run_services import RunServices, decode_draft
from gateway.turn_request import TurnRequest
from protocol.codec import decode_durable
from protocol.frames import Delta, DurableEvent, Message, MessageStart, ToolCall
from protocol.ids import new_id, rfc3339, time_id
from stores.ports import EpochOver, Fenced, StaleFence, StoreError
from stores.records import Claimed, EventRow, LogBatch, LogEvent, LogFold, OpenMessage, Turn, TurnRows

__all__ = ["Found", "take_up", "unsaid"]

# Of a message that was said in a log that is lost; whoever reads the new one has a snapshot without it.
_AGAIN = 2


class Found(Struct, frozen=True):
    """What is stored of the turn: `known` are the ids of its events, `seen` their highest order, `over` says that its
    end is among them."""

    recovered: Recovered
    known: set[str]
    seen: int
    over: bool


async def take_up(
    services: RunServices,
    claimed: Claimed,
    stored: StoredTurn,
    request: TurnRequest,
    begun_before: bool,
    claimed_in: int | None,
) -> tuple[TurnMachine, Outbox, Found]:
    """Raise the fence in the log, then read the log's fold, then the store. Raises Fenced where the turn was lost.

    `claimed_in` is the epoch that was learnt before the claim. Where it still is, and nobody had the turn before, the
    store has nothing to add to what the claim told.
    """
    turn, rows = claimed.rows.turn, claimed.rows
    fold = await _fence_log(services, turn)
    epoch, opened = fold.epoch, next((opened for opened in fold.open if opened.turn_id == turn.id), None)
    if turn.fence > 1 or epoch != claimed_in:
        found = await patiently(lambda: services.store.load_turn(turn.key, turn.id))
        if found is None or found.turn.fence != turn.fence:
            raise Fenced
        rows = found
        stored.read(rows.events, rows.cancels)
    outbox = Outbox(turn.key, turn.id, turn.fence, epoch)
    for event in unsaid(rows.events, fold):
        outbox.put(event)
    return _machine(services, turn, request), outbox, await _found(services, rows, request, opened, begun_before)


async def _fence_log(services: RunServices, turn: Turn) -> LogFold:
    while True:
        epoch = await patiently(lambda: services.epochs.current(turn.key))
        batch = LogBatch(key=turn.key, epoch=epoch, writer=new_id("w_"), events=(), turn_id=turn.id, fence=turn.fence)
        answer = await patiently(lambda: _append(services, batch))  # noqa: B023 - awaited within the round
        if isinstance(answer, StaleFence):
            raise Fenced
        fold = await patiently(lambda: services.log.fold(turn.key))
        if isinstance(answer, EpochOver) or fold is None or fold.epoch != epoch:
            services.epochs.forget(turn.key)
            continue
        return fold


async def _append(services: RunServices, batch: LogBatch) -> dict[str, int] | StoreError:
    (answer,) = await services.log.append([batch])
    if isinstance(answer, StoreError) and not isinstance(answer, EpochOver | StaleFence):
        raise answer
    return answer


def unsaid(rows: Sequence[EventRow], fold: LogFold) -> list[LogEvent]:
    """What is stored and has no seq, in order, as the log is to be told of it; a message that it lacks is preceded by
    the text that it lacks."""
    opened = {message.message_id: message for message in fold.open}
    events: list[LogEvent] = []
    for row in rows:
        if row.seq is not None:
            continue
        event = decode_durable(row.body)
        if isinstance(event, Message) and event.role == "assistant" and row.id not in fold.ids:
            events += _rest(event, opened.get(event.id))
        events.append(LogEvent(event=event, body=row.body, id=row.id))
    return events


def _rest(message: Message, opened: OpenMessage | None) -> list[LogEvent]:
    content = message.content if isinstance(message.content, str) else ""
    start: list[LogEvent] = []
    if opened is not None and content.startswith(opened.text):
        rest = content.removeprefix(opened.text)
    else:
        rest = content
        again = MessageStart(
            context_id=message.context_id,
            turn_id=message.turn_id,
            id=message.id,
            role="assistant",
            model=message.model or "",
            attempt=opened.attempt + 1 if opened is not None else _AGAIN,
        )
        start = [live(again)]
    if not rest:
        return start
    text = Delta(context_id=message.context_id, turn_id=message.turn_id, message_id=message.id, text=rest)
    return [*start, live(text)]


async def _found(
    services: RunServices, rows: TurnRows, request: TurnRequest, opened: OpenMessage | None, begun_before: bool
) -> Found:
    events = [decode_durable(row.body) for row in rows.events]
    tools = {event.id: event.tool for event in events if isinstance(event, ToolCall)}
    interrupted = {
        call.id
        for call in rows.calls.values()
        if call.claimed
        and not call.answered
        and not await services.routes.idempotent(request.principal, tools[call.id])
    }
    opened_now = Written(opened.message_id, opened.attempt, opened.text, opened.reasoning) if opened else None
    return Found(
        Recovered(
            events=events,
            interrupted=frozenset(interrupted),
            cancelled_calls=frozenset(cancel.call_id for cancel in rows.cancels if cancel.call_id is not None),
            live=opened_now,
            draft=decode_draft(rows.turn.draft) if rows.turn.draft is not None else None,
            # Whoever gave the turn up before its first message was written may have begun it.
            begun_before=begun_before or (rows.turn.fence > 1 and not _written(events)),
            cancelled=rows.turn.cancelled,
            since=since_when(zip(events, (row.stored_at for row in rows.events), strict=True)),
            now=services.clock(),
        ),
        known={row.id for row in rows.events},
        seen=max([row.order for row in rows.events] + [cancel.order for cancel in rows.cancels], default=0),
        over=any(row.type == "turn_end" for row in rows.events),
    )


def _written(events: Sequence[DurableEvent]) -> bool:
    return any(isinstance(event, Message) and event.role == "assistant" for event in events)


def _machine(services: RunServices, turn: Turn, request: TurnRequest) -> TurnMachine:
    def id_of(prefix: str, what: str) -> str:
        # The same for every runner, so that what is begun again is the same message or call.
        digest = hashlib.blake2b(f"{turn.key.owner}\0{turn.key.id}\0{turn.id}\0{what}".encode(), digest_size=10)
        return time_id(prefix, int(turn.created_at * 1000), int.from_bytes(digest.digest(), "big"))

    return TurnMachine(
        context_id=turn.key.id,
        turn_id=turn.id,
        kind=turn.kind,
        model=request.model,
        max_steps=services.max_steps,
        max_retries=services.max_retries,
        mint=new_id,
        now=lambda: rfc3339(datetime.now(UTC)),
        step_id=lambda step: id_of("msg_", str(step)),
        read_id=lambda message_id, place: id_of("tool_", f"{message_id}\0{place}"),
        waits=services.waits,
    )
