"""Hypothesis strategy for logs of one context, and what a log and a store would know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hypothesis import strategies as st

from gateway.core.fold import Transcript
from protocol.codec import decode_event, encode, with_seq
from protocol.frames import (
    ContextChanged,
    Delta,
    DurableEvent,
    Event,
    Message,
    MessageStart,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)
from protocol.ids import Cursor
from stores.records import Entry, EventRow, History, LogFold, OpenMessage, Progress

__all__ = ["CONTEXT", "entries_of", "log_fold", "logs", "read_all", "row_id", "rows_of"]

CONTEXT = "conv_1"
_CHANNELS: st.SearchStrategy[Literal["text", "reasoning"]] = st.sampled_from(["text", "reasoning"])
_WORDS = st.sampled_from(["a", "bc", "\u00e9\u00e8", '"', "x" * 40])


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Events of a context without `seq`: two turns that write and call side by side, and what is beside them."""
    events: list[Event] = []
    open_messages: dict[str, tuple[str, int]] = {}
    calls: dict[str, str] = {}
    for n in range(draw(st.integers(0, 40))):
        turn = draw(st.sampled_from(["t1", "t2"]))
        kinds = ["delta", "delta", "delta", "progress", "progress", "start", "close", "call", "answer"]
        kind = draw(st.sampled_from([*kinds, "user", "approval", "context", "end"]))
        opened = open_messages.get(turn)
        running = [call for call, owner in calls.items() if owner == turn]
        if kind == "start" or (kind in ("delta", "close") and opened is None):
            begun, attempt = (opened[0], opened[1] + 1) if opened else (f"m{n}", 1)
            open_messages[turn] = (begun, attempt)
            events.append(
                MessageStart(context_id=CONTEXT, turn_id=turn, id=begun, role="assistant", model="m", attempt=attempt)
            )
        elif kind == "delta" and opened is not None:
            channel = draw(_CHANNELS)
            events.append(
                Delta(context_id=CONTEXT, turn_id=turn, message_id=opened[0], text=draw(_WORDS), channel=channel)
            )
        elif kind == "close" and opened is not None:
            del open_messages[turn]
            events.append(_message(opened[0], turn, "assistant"))
        elif kind == "call" or not running:
            calls[f"c{n}"] = turn
            events.append(
                ToolCall(
                    context_id=CONTEXT,
                    turn_id=turn,
                    id=f"c{n}",
                    tool="charge",
                    parameters={},
                    timestamp="now",
                    runs_on="server",
                )
            )
        elif kind == "progress":
            call = draw(st.sampled_from(running))
            events.append(ToolProgress(context_id=CONTEXT, turn_id=turn, tool_call_id=call, progress=n, message="on"))
        elif kind == "answer":
            call = draw(st.sampled_from(running))
            del calls[call]
            events.append(
                ToolResponse(
                    context_id=CONTEXT,
                    turn_id=turn,
                    id=f"r{n}",
                    tool_call_id=call,
                    result=n,
                    status="success",
                    timestamp="now",
                )
            )
        elif kind == "approval":
            events.append(ToolApproval(context_id=CONTEXT, turn_id=turn, tool_call_id=f"x{n}", approved=True))
        elif kind == "user":
            events.append(_message(f"u{n}", None, "user"))
        elif kind == "context":
            events.append(ContextChanged(context_id=CONTEXT, title=f"title {n}"))
        else:
            open_messages.pop(turn, None)
            no_usage = Usage(input_tokens=0, output_tokens=0)
            events.append(TurnEnd(context_id=CONTEXT, turn_id=f"{turn}", status="failed", steps=n, usage=no_usage))
    return events


def _message(id: str, turn: str | None, role: str) -> Message:
    return Message(
        context_id=CONTEXT,
        turn_id=turn,
        id=id,
        content=f"content of {id}",
        role="assistant" if role == "assistant" else "user",
        timestamp="now",
        status="complete",
    )


def entries_of(events: Sequence[Event]) -> list[Entry]:
    return [Entry(seq, with_seq(encode(event), seq), seq) for seq, event in enumerate(events, 1)]


def row_id(event: Event, seq: int) -> str:
    """As stored: `context` and `tool_approval` have ids that the event does not show."""
    return event.id if isinstance(event, Message | ToolCall | ToolResponse) else f"row{seq}"


def rows_of(events: Sequence[Event], recorded: int) -> History:
    """The store of a log whose seqs are recorded up to `recorded`."""
    rows: list[EventRow] = []
    without: list[EventRow] = []
    for seq, event in enumerate(events, 1):
        if isinstance(event, DurableEvent):
            kind = str(type(event).__struct_config__.tag)
            row = EventRow(
                id=row_id(event, seq),
                type=kind,
                body=encode(event),
                order=seq,
                turn_id=event.turn_id,
                seq=seq if seq <= recorded else None,
            )
            (rows if seq <= recorded else without).append(row)
    return History(rows, without, has_more=False)


def log_fold(events: Sequence[Event], upto: int, epoch: int = 1) -> LogFold:
    """What the log knows when its head is `upto`."""
    reader = read_all(events[:upto])
    return LogFold(
        epoch=epoch,
        seq=upto,
        ids={row_id(event, seq): seq for seq, event in enumerate(events[:upto], 1) if isinstance(event, DurableEvent)},
        open=[
            OpenMessage(
                message_id=partial.message_id,
                turn_id=partial.turn_id,
                model=partial.model,
                attempt=partial.attempt,
                text=partial.text,
                reasoning=partial.reasoning,
            )
            for partial in reader.partial.values()
        ],
        progress={
            running.call.id: Progress(
                call_id=running.call.id, progress=running.progress, total=running.total, message=running.message
            )
            for running in reader.running.values()
            if running.progress is not None
        },
    )


def read_all(events: Sequence[Event]) -> Transcript:
    """A reader that was there from the beginning and saw every event."""
    transcript = Transcript(CONTEXT)
    transcript.resume(Cursor(1, 0))
    for entry in entries_of(events):
        transcript.apply(decode_event(entry.data))
    return transcript
