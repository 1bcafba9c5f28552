"""A context's events as AG-UI 1.0 events (https://docs.ag-ui.com), for front ends that speak it.

A thread is a context, a run a turn. AG-UI has one run at a time: a turn that goes on beside another is told in its run.
It has no way to take text back within a message either, but a MESSAGES_SNAPSHOT replaces what its reader knows: so what
was told of a message is remembered until the response ends, and said again without what was dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.fold import event_key
from gateway.http.ag_ui_messages import Messages, ag, messages_of
from gateway.http.ag_ui_request import read_run
from gateway.http.ag_ui_writer import Writer
from gateway.http.front_ends import asked_turn, turn_failure
from protocol.frames import (
    ContextChanged,
    Delta,
    DurableEvent,
    Event,
    Message,
    MessageStart,
    SendMessage,
    Snapshot,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)

__all__ = ["AgUiFormat"]

_PAST = 64
"""How many turns that are over are known."""


@dataclass(slots=True)
class _Run:
    """`turn` names it, `turns` have not ended, `seen` are the durable events that were told."""

    id: str
    turn: str
    turns: set[str] = field(default_factory=set[str])
    seen: set[str] = field(default_factory=set[str])
    end: TurnEnd | None = None


class AgUiFormat:
    """One response in AG-UI events."""

    def __init__(self) -> None:
        self._thread = ""
        self._posted: str | None = None
        self._own: str | None = None  # the turn that was asked for
        self._run_id: str | None = None
        self._known: list[tuple[str, bytes]] = []
        self._leftover = False
        self._writer = Writer()
        self._run: _Run | None = None
        self._past: deque[str] = deque(maxlen=_PAST)
        self._over = False

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def over(self) -> bool:
        return False

    def request(self, body: bytes, context_id: str) -> SendMessage:
        """The message in a RunAgentInput. Raises ProtocolError, which names the field."""
        found = read_run(body, context_id)
        self._thread = context_id
        self._posted = found.message.id
        self._run_id = found.run_id
        self._leftover = found.leftover
        self._knows(found.known)
        return found.message

    def event(self, event: Event, data: bytes, cursor: str) -> bytes:
        del data, cursor
        self._thread = event.context_id
        turn = event.turn_id
        if turn is None and isinstance(event, Message) and event.id == self._posted:
            turn = event.id  # it was not to be answered
        if turn is not None:
            self._asked(turn)
        if not self._over and (self._posted is None or turn == self._own is not None):
            self._take(event)
        return self._writer.take()

    def snapshot(self, frame: Snapshot, data: bytes, cursor: str) -> bytes:
        del data
        self._thread = frame.context_id
        if self._posted is not None:
            self._asked(asked_turn(frame, self._posted))
            self._catch_up(frame)
        else:
            self._begin_again(frame, cursor)
        return self._writer.take()

    def end(self, end: TurnEnd | None) -> bytes:
        if end is not None and not self._over and (self._run is not None or self._posted is not None):
            self._thread = end.context_id
            self._take(end)
        if self._run is not None or (self._posted is not None and not self._over):
            self._writer.close_all()
            self._writer.put(ag.RunErrorEvent(message="the server is going away; run again", code="unavailable"))
            self._run = None
        self._over = True
        return self._writer.take()

    def _asked(self, turn: str) -> None:
        """The first event tells whose turn was asked for: another's, where the message steered that one. The client may
        know some of it from an earlier try."""
        if self._posted is None or self._own is not None:
            return
        self._own = turn
        place = next((n for n, (id, _) in enumerate(self._known) if id == turn), len(self._known) - 1)
        if place + 1 < len(self._known):
            self._leftover = True
            self._knows(self._known[: place + 1])

    def _knows(self, messages: list[tuple[str, bytes]]) -> None:
        self._known = messages
        self._writer.messages = Messages([text for _, text in messages])

    # ---- what happens

    def _take(self, event: Event) -> None:
        late = event.turn_id in self._past
        match event:
            case Message() if event.role != "assistant":
                self._said(event, None if late else event.turn_id)
            case ContextChanged():
                return  # there is no word for it
            case _ if late:
                return  # stored while the turn's end was being stored
            case TurnEnd():
                self._ended(event)
            case _:
                self._told(self._entered(event.turn_id or ""), event)

    def _told(self, run: _Run, event: Event) -> None:
        if isinstance(event, DurableEvent):
            if event_key(event) in run.seen:
                return
            run.seen.add(event_key(event))
        writer, turn = self._writer, event.turn_id or ""
        match event:
            case MessageStart() if event.id not in run.seen:
                if event.id in writer.open:
                    writer.take_back(writer.open[event.id])
                writer.step(turn, event.id)
            case Delta() if event.message_id not in run.seen:
                writer.write(writer.step(turn, event.message_id), event.channel, event.text)
            case Message():
                writer.finish(writer.step(turn, event.id), event)
            case ToolCall():
                if event.message_id is not None and event.message_id not in run.seen:
                    writer.step(turn, event.message_id)
                writer.call(event)
            case ToolResponse():
                writer.answer(event)
            case ToolApproval():
                writer.decision(event)
            case ToolProgress():
                writer.progress(event.tool_call_id, event.progress, event.total, event.message)
            case _:
                pass

    def _entered(self, turn: str) -> _Run:
        """The run that the turn is told in."""
        run = self._run
        if run is None:
            run = self._run = _Run(self._run_id or turn, turn)
            self._run_id = None
            started = ag.RunStartedEvent(thread_id=self._thread, run_id=run.id, protocol_version=ag.PROTOCOL_VERSION)
            self._writer.put(started)
            if self._leftover:
                self._leftover = False
                self._writer.correct()
        run.turns.add(turn)
        return run

    def _said(self, message: Message, turn: str | None) -> None:
        run = self._run or self._entered(turn or message.id)
        if message.id not in run.seen:
            run.seen.add(message.id)
            if message.id not in (id for id, _ in self._known):
                self._writer.said(message)
        if turn is None and run.turn == message.id:
            self._finish(run)

    def _ended(self, end: TurnEnd) -> None:
        turn = end.turn_id or ""
        if self._run is not None and turn not in self._run.turns:
            return  # it waited behind another, and was never begun
        run = self._entered(turn)
        self._writer.give_up(turn)
        self._past.append(turn)
        run.turns.discard(turn)
        if run.turn == turn:
            run.end = end
        if not run.turns:
            self._finish(run)

    def _finish(self, run: _Run) -> None:
        self._writer.close_all()
        end = run.end
        if end is not None and end.status == "failed":
            code, words = turn_failure(end.error)
            self._writer.put(ag.RunErrorEvent(message=words, code=code, usage=_usage(end.usage)))
        else:
            cancelled = end is not None and end.status == "cancelled"
            finished = ag.RunFinishedEvent(
                thread_id=self._thread,
                run_id=run.id,
                outcome=ag.RunFinishedCancelledOutcome() if cancelled else ag.RunFinishedSuccessOutcome(),
                result={"status": end.status, "steps": end.steps} if end is not None else None,
                usage=_usage(end.usage) if end is not None else None,
            )
            self._writer.put(finished)
        self._run = None
        self._over = self._posted is not None

    # ---- snapshots

    def _catch_up(self, frame: Snapshot) -> None:
        """The posted turn's part of the snapshot, as far as it was not told yet."""
        for event in frame.events:
            if not self._over and event.turn_id == self._own:
                self._take(event)
        if self._over:
            return
        for partial in frame.partial:
            if partial.turn_id == self._own:
                self._entered(partial.turn_id)
                self._writer.catch_up(self._writer.step(partial.turn_id, partial.message_id), partial)
        for running in frame.running:
            if running.call.turn_id == self._own:
                self._take(running.call)
                if running.progress is not None:
                    self._writer.progress(running.call.id, running.progress, running.total, running.message)

    def _begin_again(self, frame: Snapshot, cursor: str) -> None:
        """Everything as the snapshot has it, in the run that goes on, that has gone on unseen, or in one of its own."""
        ended = {event.turn_id: event for event in frame.events if isinstance(event, TurnEnd)}
        live = [partial.turn_id for partial in frame.partial] + [one.call.turn_id or "" for one in frame.running]
        run = self._run
        self._writer.close_all()
        if run is None:
            run = self._entered(live[0] if live else f"snapshot:{cursor}")
            run.turns.clear()
        known = {event.turn_id for event in frame.events}
        run.turns = {turn for turn in run.turns if turn in known and turn not in ended} | set(live)
        run.seen = {event_key(event) for event in frame.events} | {one.call.id for one in frame.running}
        run.end = run.end or ended.get(run.turn)
        self._writer.begin_again(messages_of(frame), frame.partial)
        decided = {event.tool_call_id for event in frame.events if isinstance(event, ToolApproval)}
        for one in frame.running:
            if one.call.approval is not None and one.call.id not in decided:
                self._writer.ask(one.call)
            if one.progress is not None:
                self._writer.progress(one.call.id, one.progress, one.total, one.message)
        if not run.turns:
            self._finish(run)


def _usage(usage: Usage) -> list[ag.TokenUsage]:
    total = usage.input_tokens + usage.output_tokens
    return [
        ag.TokenUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=total,
            reasoning_tokens=usage.reasoning_tokens,
            cached_input_tokens=usage.cached_tokens,
        )
    ]
