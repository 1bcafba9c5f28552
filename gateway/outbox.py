"""What one turn has yet to say to the log, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from protocol.codec import encode
from protocol.frames import Delta, LiveEvent
from stores.records import ContextKey, LogBatch, LogEvent

__all__ = ["Outbox"]

_BATCH = 256
# While the log is away a model may go on for long: from here on pieces of text are joined as they come.
_JOIN_FROM = 1024


class Outbox:
    """Events of one turn under one fence. Memory is bounded by the text itself: while the log is away, neighbouring
    deltas are joined."""

    def __init__(self, key: ContextKey, turn_id: str, fence: int, epoch: int) -> None:
        self._key = key
        self._turn_id = turn_id
        self._fence = fence
        self.epoch = epoch
        self._waiting: list[LogEvent] = []
        self._taken: LogBatch | None = None
        self._batches = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, event: LogEvent) -> None:
        if len(self._waiting) >= _JOIN_FROM and isinstance(event.event, Delta):
            last = self._waiting[-1].event
            if (
                isinstance(last, Delta)
                and last.message_id == event.event.message_id
                and last.channel == event.event.channel
            ):
                self._waiting[-1] = live(_join(last, event.event))
                return
        self._waiting.append(event)
        self._empty.clear()

    def take(self) -> LogBatch | None:
        """The next batch; the same one until `taken` says that it is in the log."""
        if self._taken is None and self._waiting:
            self._batches += 1
            events, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._taken = LogBatch(
                key=self._key,
                epoch=self.epoch,
                # As unique as a new id, and free: nobody else has this fence of this turn.
                writer=f"{self._turn_id}/{self._fence}/{self._batches}",
                events=events,
                turn_id=self._turn_id,
                fence=self._fence,
            )
        return self._taken

    def taken(self, batch: LogBatch) -> bool:
        """The batch is in the log; whether there is more."""
        if self._taken is batch:
            self._taken = None
        if self._waiting or self._taken:
            return True
        self._empty.set()
        return False

    def restart(self, epoch: int, events: Sequence[LogEvent]) -> None:
        """Forget what was to be said: under a new epoch it is this."""
        self.epoch = epoch
        self._taken = None
        self._waiting = list(events)
        if not self._waiting:
            self._empty.set()
        else:
            self._empty.clear()

    async def emptied(self) -> None:
        """Wait until the log has everything."""
        await self._empty.wait()


def live(event: LiveEvent) -> LogEvent:
    return LogEvent(event=event, body=encode(event))


def _join(one: Delta, other: Delta) -> Delta:
    return Delta(
        context_id=one.context_id,
        turn_id=one.turn_id,
        message_id=one.message_id,
        text=one.text + other.text,
        channel=one.channel,
    )
