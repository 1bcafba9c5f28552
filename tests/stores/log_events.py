"""Events and batches for tests of the live log."""

from __future__ import annotations

from itertools import count

from protocol.codec import encode
from protocol.frames import Delta, Event, Message, MessageStart
from stores.ports import EventLog
from stores.records import ContextKey, LogBatch, LogEvent

__all__ = ["A", "append", "batch", "live", "said", "start", "text"]

A = ContextKey("t/s", "conv_a")
_writers = count(1)


def live(event: Event) -> LogEvent:
    return LogEvent(event=event, body=encode(event))


def text(words: str, id: str = "m1") -> LogEvent:
    return live(Delta(context_id="conv_a", turn_id="t1", message_id=id, text=words))


def start(id: str = "m1", attempt: int = 1, turn: str = "t1") -> LogEvent:
    return live(MessageStart(context_id="conv_a", turn_id=turn, id=id, role="assistant", model="m", attempt=attempt))


def said(id: str, turn: str = "t1") -> LogEvent:
    event = Message(
        context_id="conv_a", id=id, content=id, role="assistant", timestamp="now", status="complete", turn_id=turn
    )
    return LogEvent(event=event, body=encode(event), id=id)


def batch(
    *events: LogEvent,
    key: ContextKey = A,
    epoch: int = 1,
    writer: str | None = None,
    turn: str | None = None,
    fence: int = 0,
) -> LogBatch:
    name = writer or f"w{next(_writers)}"
    return LogBatch(key=key, epoch=epoch, writer=name, events=events, turn_id=turn, fence=fence)


async def append(log: EventLog, *events: LogEvent, key: ContextKey = A, epoch: int = 1) -> dict[str, int]:
    (answer,) = await log.append([batch(*events, key=key, epoch=epoch)])
    assert isinstance(answer, dict)
    return answer
