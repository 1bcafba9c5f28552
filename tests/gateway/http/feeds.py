"""What the doors would give to a format: the events of turns as the turn machine makes them, whatever happens to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gateway.core.fold import Transcript, event_key
from gateway.http.format import Format
from protocol.codec import encode, with_seq
from protocol.frames import (
    Delta,
    DurableEvent,
    ErrorBody,
    Event,
    Message,
    MessageStart,
    Snapshot,
    ToolCall,
    ToolResponse,
    TurnEnd,
    Usage,
)
from protocol.ids import Cursor
from tests.gateway.core.test_turn_property import World
from tests.gateway.core.turn_rig import CONTEXT, TURN, Rig, event_id

__all__ = [
    "Feed",
    "answered",
    "asked",
    "called",
    "delta",
    "ended",
    "feed_of",
    "rows_of",
    "said",
    "snapshot_of",
    "start",
    "told",
]

Feed = list[Event | Snapshot]


class _Watched(Rig):
    """Keeps what a reader is given who is always there: where the log is lost, a snapshot of what has a `seq`."""

    def __init__(self) -> None:
        self.feed: Feed = []
        super().__init__()

    def _append(self, event: Event) -> None:
        before = len(self.log)
        super()._append(event)
        self.feed.extend(self.log[before:])

    def lose_log(self) -> None:
        super().lose_log()
        transcript = _read([])
        transcript.events.extend(row for row in self.rows if event_id(row) in self.logged)
        self.feed.append(_snapshot(transcript))


def feed_of(choices: Sequence[int]) -> tuple[Feed, Rig]:
    """A whole turn: what its reader is given, and what is true of it at the end."""
    world = World()
    world.rig = rig = _Watched()
    for choice in choices:
        world.choose(choice)
    world.settle()
    rig.flush()
    return rig.feed, rig


def rows_of(feed: Sequence[Event | Snapshot]) -> list[DurableEvent]:
    """What is stored of the turn up to its end, in the order in which its reader meets it."""
    rows: dict[str, DurableEvent] = {}
    for one in feed:
        for event in one.events if isinstance(one, Snapshot) else [one]:
            if isinstance(event, DurableEvent):
                rows.setdefault(event_key(event), event)
            if isinstance(event, TurnEnd):
                return list(rows.values())
    raise AssertionError("the turn has no end")


def snapshot_of(events: Sequence[Event], last: int = 100) -> Snapshot:
    """The context after `events`, of which it holds the `last` durable ones."""
    return _snapshot(_read(events), last)


def _read(events: Sequence[Event]) -> Transcript:
    transcript = Transcript("conv_1")
    transcript.resume(Cursor(1, 0))
    for seq, event in enumerate(events, 1):
        transcript.apply(replace(event, seq=seq))
    return transcript


def _snapshot(transcript: Transcript, last: int = 100) -> Snapshot:
    assert transcript.cursor is not None
    return Snapshot(
        context_id="conv_1",
        epoch="1",
        seq=transcript.cursor.seq,
        events=transcript.events[-last:],
        has_more=len(transcript.events) > last,
        partial=list(transcript.partial.values()),
        running=list(transcript.running.values()),
    )


def told(format: Format, feed: Sequence[Event | Snapshot]) -> bytes:
    """What the format writes of it."""
    out: list[bytes] = []
    for seq, one in enumerate(feed, 1):
        if isinstance(one, Snapshot):
            out.append(format.snapshot(one, encode(one), f"1:{seq}"))
        else:
            out.append(format.event(one, with_seq(encode(one), seq), f"1:{seq}"))
    return b"".join(out)


# ---- single events of the turn

_USAGE = Usage(input_tokens=3, output_tokens=4, reasoning_tokens=1)


def asked(id: str = TURN, content: str = "hello", turn: str | None = TURN) -> Message:
    return Message(
        context_id=CONTEXT, turn_id=turn, id=id, content=content, role="user", timestamp="now", status="complete"
    )


def start(id: str = "m1", turn: str = TURN, attempt: int = 1) -> MessageStart:
    return MessageStart(context_id=CONTEXT, turn_id=turn, id=id, role="assistant", model="m", attempt=attempt)


def delta(text: str, id: str = "m1", turn: str = TURN, channel: Any = "text") -> Delta:
    return Delta(context_id=CONTEXT, turn_id=turn, message_id=id, text=text, channel=channel)


def said(content: str, id: str = "m1", turn: str = TURN, status: Any = "complete") -> Message:
    return Message(
        context_id=CONTEXT, turn_id=turn, id=id, content=content, role="assistant", timestamp="now", status=status
    )


def called(id: str = "c1", message_id: str | None = "m1", turn: str = TURN, **more: Any) -> ToolCall:
    return ToolCall(
        context_id=CONTEXT,
        turn_id=turn,
        id=id,
        tool="charge",
        parameters={"amount": 1},
        timestamp="now",
        runs_on=more.pop("runs_on", "server"),
        message_id=message_id,
        **more,
    )


def answered(call: str = "c1", turn: str = TURN, **more: Any) -> ToolResponse:
    return ToolResponse(
        context_id=CONTEXT,
        turn_id=turn,
        id=f"r_{call}",
        tool_call_id=call,
        result=more.pop("result", {"ok": True}),
        status=more.pop("status", "success"),
        timestamp="now",
        **more,
    )


def ended(status: Any = "complete", turn: str = TURN, error: ErrorBody | None = None) -> TurnEnd:
    return TurnEnd(context_id=CONTEXT, turn_id=turn, status=status, steps=1, usage=_USAGE, error=error)
