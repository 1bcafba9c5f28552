"""A reader of one context through any number of connections, who checks what it is promised."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.client import Frame

__all__ = ["Follower", "differences"]

_LIVE = frozenset({"message_start", "delta", "tool_progress"})
_MOST_FAULTS = 10


class Follower:
    """`faults` are the promises of protocol.md, section 4, that were broken.

    `seq` and `epoch` are those of its cursor, None before the first snapshot; `arrivals` are the times of tokens by
    their seq, `snapshots` those that came. `ended` is done when a turn of the context is over.
    """

    def __init__(self, context_id: str, name: str) -> None:
        self.context_id = context_id
        self.name = name
        self.epoch: str | None = None
        self.seq: int | None = None
        self.arrivals: dict[int, float] = {}
        self.snapshots = 0
        self.merged = 0
        self.faults: list[str] = []
        # What history has: type, id, content or status, by seq.
        self.transcript: dict[int, tuple[str, str | None, Any]] = {}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._texts: dict[str, list[str]] = {}
        # A snapshot must come before the next event: `subscribed` said that the stream does not go on from the cursor.
        self._awaiting = True
        self._goal: tuple[int, asyncio.Future[float]] | None = None

    @property
    def cursor(self) -> str | None:
        return f"{self.epoch}:{self.seq}" if self.seq is not None else None

    def hear(self, frame: Frame, now: float) -> None:
        if frame.type == "subscribed":
            self._awaiting = (frame.epoch, frame.seq) != (self.epoch, self.seq)
        elif frame.type == "snapshot":
            self._snapshot(frame)
        elif frame.type in ("error", "goaway"):
            self.fail(f"{frame.type} {frame.code}")
        elif frame.type != "ack" and frame.seq is not None:
            self._take(frame, frame.seq, now)
        self._check_goal(now)

    def reaches(self, seq: int, now: float) -> asyncio.Future[float]:
        """When the cursor gets there: a time of `time.perf_counter`. `now` where it is there already. One at a time."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._goal = (seq, future)
        self._check_goal(now)
        return future

    def fail(self, what: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(f"{self.name}: {what}")

    def _check_goal(self, now: float) -> None:
        if self._goal is None or self._awaiting or self.seq is None or self.seq < self._goal[0]:
            return
        if not self._goal[1].done():
            self._goal[1].set_result(now)
        self._goal = None

    def _take(self, frame: Frame, seq: int, now: float) -> None:
        first = frame.first if frame.first is not None else seq
        if self._awaiting:
            self.fail(f"seq {first} came in place of a snapshot")
        elif self.seq is not None and first != self.seq + 1:
            self.fail(f"seq {first} came after {self.seq}")
        self.seq = seq
        if frame.type == "delta":
            self._texts.setdefault(frame.message_id or "", []).append(frame.text or "")
            self.arrivals.update(dict.fromkeys(range(first, seq + 1), now))
            self.merged += first < seq
        elif frame.type == "message_start":
            self._texts[frame.id or ""] = []
        elif frame.type not in _LIVE:
            self._keep(frame, seq, whole=True)

    def _keep(self, frame: Frame, seq: int, *, whole: bool) -> None:
        """A durable event; `whole` where all that came before it is known, as it is not in a snapshot."""
        event = (frame.type, frame.id, frame.status if frame.type == "turn_end" else frame.content)
        if self.transcript.setdefault(seq, event) != event:
            self.fail(f"seq {seq} was two events")
        if frame.type == "message" and frame.role == "assistant":
            pieces = self._texts.pop(frame.id or "", None)
            if pieces is not None and not _made_of(frame.content, pieces, whole=whole):
                self.fail("the message is not what its deltas make")
        elif frame.type == "turn_end" and not self.ended.done():
            if frame.status != "complete":
                self.fail(f"the turn ended {frame.status}")
            self.ended.set_result(None)

    def _snapshot(self, frame: Frame) -> None:
        seq = frame.seq if frame.seq is not None else 0
        if self.seq is not None and frame.epoch == self.epoch and seq < self.seq:
            self.fail(f"a snapshot at {seq} came after {self.seq}")
        before = self.seq
        for event in frame.events:
            if event.seq is not None:
                if before is not None and event.seq <= before and event.seq not in self.transcript:
                    self.fail(f"seq {event.seq} is in the snapshot and never came")
                self._keep(event, event.seq, whole=False)
        for partial in frame.partial:
            if not _made_of(partial.text, self._texts.get(partial.message_id, []), whole=False):
                self.fail("the text of a snapshot does not begin with its deltas")
            self._texts[partial.message_id] = [partial.text]
        self.epoch, self.seq = frame.epoch, seq
        self.snapshots += 1
        self._awaiting = False


def _made_of(content: object, pieces: Sequence[str], *, whole: bool) -> bool:
    text = "".join(pieces)
    return content == text if whole else isinstance(content, str) and content.startswith(text)


def differences(followers: Sequence[Follower]) -> list[str]:
    """How those who follow one context differ from the first of them, after the last event."""
    first = followers[0]
    return [
        f"{other.name}: it ended at seq {other.seq} with {len(other.transcript)} events, "
        f"and {first.name} at {first.seq} with {len(first.transcript)}"
        for other in followers[1:]
        if (other.seq, other.transcript) != (first.seq, first.transcript)
    ]
