"""One conversation as a screen shows it: frames of the client in, what is to be shown out. No I/O.

A screen takes nothing back, so whatever comes twice (a message begun again, a snapshot in the place of events) is
compared with what was shown: what repeats it is left out, what goes on after it follows, and where it differs `Anew`
says so before it comes whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gateway.chat.shown import (
    Anew,
    Asked,
    Called,
    Ended,
    Finished,
    Gone,
    Missed,
    Over,
    Piece,
    Said,
    Shown,
    Titled,
)
from gateway.core.fold import event_key
from gateway.core.thread import chosen_path
from protocol.content import words_of
from protocol.frames import (
    ContextChanged,
    Delta,
    DurableEvent,
    ErrorBody,
    Event,
    Message,
    MessageStart,
    Partial,
    Running,
    Snapshot,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
)

__all__ = ["View"]

_Channel = Literal["text", "reasoning"]


class _Strand:
    """One channel of one message: what was shown of it, and what came since it was begun again."""

    __slots__ = ("_again", "_shown")

    def __init__(self) -> None:
        self._shown = ""
        self._again: str | None = None

    def restart(self) -> None:
        self._again = ""

    def add(self, text: str) -> tuple[bool, str]:
        """Whether what was shown is void, and what is to be shown next."""
        if self._again is None:
            self._shown += text
            return False, text
        return self._settle(self._again + text)

    def sync(self, text: str, *, whole: bool) -> tuple[bool, str]:
        """The text is this, so far or, where `whole`, for good."""
        void, fresh = self._settle(text)
        if whole and not void and self._shown != text:
            # It ends before what was shown does.
            self._shown, self._again = text, None
            return True, text
        return void, fresh

    def _settle(self, text: str) -> tuple[bool, str]:
        shown = self._shown
        if len(text) < len(shown) and shown.startswith(text):
            self._again = text
            return False, ""
        self._shown, self._again = text, None
        if text.startswith(shown):
            return False, text[len(shown) :]
        return True, text


class View:
    """`running` are the calls that run and `asked` those that wait for a person, by id; `waiting` the messages whose
    turns have not begun, by id; `turn_id` is the turn that is being answered, None where there is none."""

    def __init__(self) -> None:
        self.running: dict[str, Running] = {}
        self.asked: dict[str, ToolCall] = {}
        self.waiting: dict[str, Said] = {}
        self.turn_id: str | None = None
        self.title: str | None = None
        self._strands: dict[tuple[str, _Channel], _Strand] = {}
        self._attempts: dict[str, int] = {}
        self._seen: set[str] = set()
        self._mine: set[str] = set()
        self._over: set[str] = set()
        # Within a snapshot: the calls whose approval or response it holds too.
        self._decided: frozenset[str] = frozenset()

    @property
    def busy(self) -> bool:
        """Whether an answer is being written or waits for its turn."""
        return self.turn_id is not None or bool(self.waiting)

    # ---- sending

    def sending(self, id: str, text: str) -> list[Shown]:
        """A message goes out from here: it is shown at once where nothing is being answered, else with its turn."""
        self._mine.add(id)
        return self._say(Said(id, text, mine=True))

    def refused(self, id: str) -> None:
        """It was not taken."""
        self.waiting.pop(id, None)
        self._over.add(id)
        if self.turn_id == id:
            self.turn_id = None

    # ---- following

    def take(self, frame: Event | Snapshot) -> list[Shown]:
        """What a frame of the conversation, in order, asks to be shown."""
        return list(self._snapshot(frame) if isinstance(frame, Snapshot) else self._event(frame))

    def _event(self, event: Event) -> Iterator[Shown]:
        match event:
            case MessageStart():
                yield from self._open(event.turn_id)
                self._attempt(event.id, event.attempt)
            case Delta():
                yield from self._pieces(
                    event.message_id, event.channel, self._strand(event.message_id, event.channel).add(event.text)
                )
            case ToolProgress():
                running = self.running.get(event.tool_call_id)
                if running is not None:
                    self.running[event.tool_call_id] = Running(
                        call=running.call, progress=event.progress, total=event.total, message=event.message
                    )
            case _:
                yield from self._durable(event)

    def _durable(self, event: DurableEvent) -> Iterator[Shown]:
        key = event_key(event)
        if key in self._seen:
            return
        self._seen.add(key)
        match event:
            case Message(role="assistant"):
                yield from self._open(event.turn_id)
                yield from self._text(event.id, words_of(event.content), whole=True)
                self._strands = {k: strand for k, strand in self._strands.items() if k[0] != event.id}
                yield Finished(event.id)
            case Message():
                if event.id not in self._mine:
                    # What steers belongs to a turn that runs, and waits for none.
                    said = Said(event.id, words_of(event.content), mine=False)
                    yield from self._say(said, turn=event.turn_id == event.id)
            case ToolCall():
                if event.message_id is not None:
                    yield from self._open(event.turn_id)
                yield from self._call(event)
            case ToolApproval():
                call = self.asked.pop(event.tool_call_id, None)
                if call is not None and (event.approved or call.asked_by is not None):
                    self.running[call.id] = Running(call=call)
                    if call.asked_by is None:
                        yield Called(call)
            case ToolResponse():
                running = self.running.pop(event.tool_call_id, None)
                asked = self.asked.pop(event.tool_call_id, None)
                call = running.call if running is not None else asked
                result = event.error.message if event.error is not None and not event.result else event.result
                yield Ended(call, event.status, result)
            case TurnEnd():
                yield from self._end(event)
            case ContextChanged():
                if event.deleted:
                    yield Gone()
                elif event.title is not None and event.title != self.title:
                    self.title = event.title
                    yield Titled(event.title)

    def _say(self, said: Said, *, turn: bool = True) -> list[Shown]:
        if not turn:
            return [said]
        if self.busy:
            self.waiting[said.id] = said
            return []
        self.turn_id = said.id
        return [said]

    def _open(self, turn_id: str | None) -> Iterator[Shown]:
        """The turn is being answered."""
        if turn_id is None or turn_id in self._over:
            return
        said = self.waiting.pop(turn_id, None)
        self.turn_id = turn_id
        if said is not None:
            yield said

    def _end(self, end: TurnEnd) -> Iterator[Shown]:
        turn_id = end.turn_id or ""
        said = self.waiting.pop(turn_id, None)
        if said is not None:
            yield said
        self._over.add(turn_id)
        if self.turn_id == turn_id:
            self.turn_id = None
        yield Over(turn_id, end.status, _reason(end))

    def _call(self, call: ToolCall) -> Iterator[Shown]:
        if call.id in self.running or call.id in self.asked:
            return
        if call.approval == "required":
            self.asked[call.id] = call
            if call.id not in self._decided:
                yield Asked(call)
        else:
            self.running[call.id] = Running(call=call)
            yield Called(call)

    # ---- text

    def _strand(self, message_id: str, channel: _Channel) -> _Strand:
        return self._strands.setdefault((message_id, channel), _Strand())

    def _attempt(self, message_id: str, attempt: int) -> None:
        if self._attempts.get(message_id, attempt) != attempt:
            self._strand(message_id, "text").restart()
            self._strand(message_id, "reasoning").restart()
        self._attempts[message_id] = attempt

    def _text(self, message_id: str, text: str, *, whole: bool) -> Iterator[Shown]:
        yield from self._pieces(message_id, "text", self._strand(message_id, "text").sync(text, whole=whole))

    def _pieces(self, message_id: str, channel: _Channel, told: tuple[bool, str]) -> Iterator[Shown]:
        void, fresh = told
        if void:
            yield Anew(message_id)
        if fresh:
            yield Piece(message_id, channel, fresh)

    # ---- snapshots

    def _snapshot(self, snapshot: Snapshot) -> Iterator[Shown]:
        events = snapshot.events
        if not self._seen and not self._strands:
            # The beginning: of a conversation that has branches its newest path is shown.
            events = chosen_path(events)
            self._seen |= {event_key(event) for event in snapshot.events} - {event_key(event) for event in events}
            if snapshot.has_more:
                yield Missed()
        elif snapshot.has_more and not any(event_key(event) in self._seen for event in events):
            yield Missed()
            yield from self._lost(snapshot)
        self._decided = frozenset(e.tool_call_id for e in events if isinstance(e, ToolResponse | ToolApproval))
        for event in events:
            yield from self._durable(event)
        for partial in snapshot.partial:
            yield from self._partial(partial)
        self._decided = frozenset()
        running = {item.call.id: item for item in snapshot.running}
        for item in snapshot.running:
            yield from self._durable(item.call)
            if item.call.id in self.running:
                self.running[item.call.id] = item
        self.running = {id: item for id, item in self.running.items() if id in running}
        self.asked = {id: call for id, call in self.asked.items() if id in running}

    def _partial(self, partial: Partial) -> Iterator[Shown]:
        yield from self._open(partial.turn_id)
        self._attempts[partial.message_id] = partial.attempt
        reasoning = self._strand(partial.message_id, "reasoning").sync(partial.reasoning, whole=False)
        yield from self._pieces(partial.message_id, "reasoning", reasoning)
        yield from self._text(partial.message_id, partial.text, whole=False)

    def _lost(self, snapshot: Snapshot) -> Iterator[Shown]:
        """Turns that have left no trace in the snapshot may have ended in what was missed."""
        traces = {event.turn_id for event in snapshot.events} | {partial.turn_id for partial in snapshot.partial}
        traces |= {item.call.turn_id for item in snapshot.running}
        if self.turn_id not in traces:
            self.turn_id = None
        for id in [id for id in self.waiting if id not in traces]:
            yield self.waiting.pop(id)


def _reason(end: TurnEnd) -> str | None:
    error: ErrorBody | None = end.error
    if end.status == "cancelled":
        return "stopped"
    if end.status == "max_steps":
        return f"the model was stopped after {end.steps} steps"
    if end.status == "failed":
        return "the answer failed" if error is None else f"the answer failed: {error.message}"
    return None
