"""The log's pure functions: merging runs for a reader that is behind, folding frames to a transcript.

The contract that both keep (docs/protocol.md, sections 3 and 4): whatever was merged or skipped by a snapshot, a
reader's fold equals the history's fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from gateway.core.thread import chosen_path
from protocol.codec import decode_event, encode
from protocol.frames import (
    Delta,
    DurableEvent,
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
from protocol.ids import Cursor
from stores.records import Entry

__all__ = ["Gap", "Transcript", "event_key", "merge"]

# The tag comes first in what the codec writes, so most frames need no decoding to be told apart.
_MERGEABLE = (b'{"type":"delta",', b'{"type":"tool_progress",')


def merge(entries: Sequence[Entry], max_text: int = 32 * 1024) -> list[Entry]:
    """The same log in fewer frames: runs of deltas of one message and channel become one (up to `max_text`
    characters), runs of progress of one call become its last."""
    merged: list[Entry] = []
    for run in _runs(entries):
        if len(run) == 1:
            merged.append(run[0])
            continue
        merged.extend(_merge_run(run, max_text))
    return merged


def _runs(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    run: list[Entry] = []
    for entry in entries:
        if run and not (entry.data.startswith(_MERGEABLE) and entry.data[:12] == run[0].data[:12]):
            yield run
            run = []
        run.append(entry)
        if not entry.data.startswith(_MERGEABLE):
            yield run
            run = []
    if run:
        yield run


def _merge_run(run: Sequence[Entry], max_text: int) -> Iterator[Entry]:
    """Merge what belongs together in a run of frames of one type."""
    held: Event = decode_event(run[0].data)
    first = run[0].first
    texts = [_text(held)]
    size = len(texts[0])
    for entry in run[1:]:
        event = decode_event(entry.data)
        text = _text(event)
        if not _together(held, event) or size + len(text) > max_text:
            yield _joined(held, first, texts)
            first, texts, size = entry.first, [], 0
        held = event
        texts.append(text)
        size += len(text)
    yield _joined(held, first, texts)


def _text(event: Event) -> str:
    return event.text if isinstance(event, Delta) else ""


def _together(one: Event, other: Event) -> bool:
    if isinstance(one, Delta) and isinstance(other, Delta):
        return one.message_id == other.message_id and one.channel == other.channel
    return isinstance(one, ToolProgress) and isinstance(other, ToolProgress) and one.tool_call_id == other.tool_call_id


def _joined(event: Event, first: int, texts: Sequence[str]) -> Entry:
    place = first if first != event.seq else None
    if isinstance(event, Delta):
        return Entry(event.seq, encode(replace(event, text="".join(texts), first=place)), first)
    return Entry(event.seq, encode(replace(event, first=place)), first)


class Gap(Exception):
    """A frame does not follow what was read before: subscribe again from the cursor."""


def event_key(event: DurableEvent) -> str:
    """What tells a durable event from all others of its context, for whoever has only the frame."""
    if isinstance(event, Message | ToolCall | ToolResponse):
        return event.id
    if isinstance(event, TurnEnd):
        return f"{event.turn_id}/end"
    if isinstance(event, ToolApproval):
        return f"{event.tool_call_id}/approval"
    return f"{event.seq}/{type(event).__name__}"


class Transcript:
    """A context as one reader knows it. `events` are the durable ones in the order of `seq`, `partial` the messages
    that are being written by id, `running` the calls without an answer by id."""

    def __init__(self, context_id: str) -> None:
        self.context_id = context_id
        self.cursor: Cursor | None = None
        self.events: list[DurableEvent] = []
        self.partial: dict[str, Partial] = {}
        self.running: dict[str, Running] = {}
        self.has_more = False

    @property
    def path(self) -> list[DurableEvent]:
        """The durable events of the newest turn and of what it continues, in the order of `seq`: what a reader shows
        of a conversation that has branches."""
        return chosen_path(self.events)

    def resume(self, cursor: Cursor) -> None:
        """Nothing is known and nothing came before `cursor`: an `ack` that created the context, or a cursor that was
        kept with what it stands for. Not for `subscribed`: where a snapshot follows it, it may never arrive."""
        if self.cursor is None:
            self.cursor = cursor

    def snapshot(self, frame: Snapshot) -> None:
        """Take in a snapshot: it stands for everything up to its `seq`. Older events that it leaves out are kept where
        none can be missing between them and it: read under the same epoch, up to the oldest that it holds."""
        cursor = Cursor(int(frame.epoch), frame.seq)
        oldest = frame.events[0].seq if frame.events else frame.seq + 1
        known = self.cursor
        if frame.has_more and known is not None and known.epoch == cursor.epoch and known.seq >= oldest - 1:
            self.events = [event for event in self.events if event.seq < oldest] + list(frame.events)
        else:
            self.events = list(frame.events)
            self.has_more = frame.has_more
        self.partial = {partial.message_id: partial for partial in frame.partial}
        self.running = {running.call.id: running for running in frame.running}
        self.cursor = cursor

    def apply(self, event: Event) -> None:
        """Take in the next event; raises Gap, and leaves all as it was, where it is not the next one."""
        first = event.seq if event.first is None else event.first
        if self.cursor is None or first != self.cursor.seq + 1:
            raise Gap(f"{first} does not follow {self.cursor}")
        self._fold(event)
        self.cursor = Cursor(self.cursor.epoch, event.seq)

    def _fold(self, event: Event) -> None:
        if isinstance(event, MessageStart):
            self.partial[event.id] = Partial(
                message_id=event.id,
                turn_id=event.turn_id or "",
                model=event.model,
                attempt=event.attempt,
                text="",
                reasoning="",
            )
        elif isinstance(event, Delta):
            partial = self.partial.get(event.message_id)
            if partial is None:
                raise Gap(f"a delta of {event.message_id}, which has not begun")
            if event.channel == "text":
                self.partial[event.message_id] = replace(partial, text=partial.text + event.text)
            else:
                self.partial[event.message_id] = replace(partial, reasoning=partial.reasoning + event.text)
        elif isinstance(event, ToolProgress):
            running = self.running.get(event.tool_call_id)
            if running is not None:
                self.running[event.tool_call_id] = replace(
                    running, progress=event.progress, total=event.total, message=event.message
                )
        else:
            self.events.append(event)
            if isinstance(event, Message):
                self.partial.pop(event.id, None)
            elif isinstance(event, ToolCall):
                self.running[event.id] = Running(call=event)
            elif isinstance(event, ToolResponse):
                self.running.pop(event.tool_call_id, None)
            elif isinstance(event, TurnEnd):
                # A turn that had to be given up may leave a message open.
                self.partial = {k: p for k, p in self.partial.items() if p.turn_id != event.turn_id}
