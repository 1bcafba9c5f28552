"""What of a context belongs to one turn: a pure filter over what its followers are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from gateway.http.told import Told, raw_events
from protocol.codec import decode_durable, encode
from protocol.frames import DurableEvent, Event, Message, Snapshot, TurnEnd
from protocol.ids import Cursor

__all__ = ["Narrowing"]


class Narrowing:
    """One turn, or (`turn_id` None) one message that is not answered. `after` is how far its reader has come.

    Its events come as they are. A snapshot comes as the events that the reader lacks where these say everything, else
    as a snapshot of the turn: while a message is being written, and where the reader comes from another epoch.
    """

    def __init__(self, turn_id: str | None, message_id: str, after: Cursor | None) -> None:
        self._turn_id = turn_id
        self._message_id = message_id
        self._last = after
        self.over = False
        self.end: TurnEnd | None = None

    def told_before(self, events: Sequence[bytes]) -> None:
        """What of the turn the reader has, durable events only: where that is all of it, it is over."""
        for event in map(decode_durable, events):
            if self._mine(event):
                self._close(event)

    def event(self, told: Told) -> bool:
        """Whether the event is the turn's."""
        frame = told.frame
        if self.over or isinstance(frame, Snapshot) or not self._mine(frame):
            return False
        self._last = Cursor.parse(told.cursor)
        self._close(frame)
        return True

    def lacks(self, frame: Snapshot) -> bool:
        """Whether the snapshot may leave out some of the turn: it holds the last events of the context only."""
        first = self._turn_id or self._message_id
        return frame.has_more and not any(isinstance(event, Message) and event.id == first for event in frame.events)

    def snapshot(self, told: Told, events: Sequence[bytes] | None = None) -> list[Told]:
        """The turn's part of a snapshot; `events`, where the snapshot lacks some, are all of the turn up to it."""
        frame = told.frame
        if self.over or not isinstance(frame, Snapshot):
            return []
        epoch = int(frame.epoch)
        mine = [
            (event, data)
            for data in (raw_events(told.data) if events is None else events)
            if self._mine(event := decode_durable(data))
        ]
        mine = mine[: next((n + 1 for n, (event, _) in enumerate(mine) if self._ends(event)), None)]
        last, self._last = self._last, Cursor(epoch, frame.seq)
        over = bool(mine) and self._ends(mine[-1][0])
        mine_only = replace(
            frame,
            events=[event for event, _ in mine],
            has_more=False,
            partial=[] if over else [one for one in frame.partial if one.turn_id == self._turn_id],
            running=[] if over else [one for one in frame.running if one.call.turn_id == self._turn_id],
        )
        if over:
            self._close(mine[-1][0])
        at_rest = not mine_only.partial and not mine_only.running
        if at_rest and (not mine or last is None or last.epoch == epoch):
            seen = 0 if last is None else last.seq
            return [Told(event, data, f"{epoch}:{event.seq}") for event, data in mine if event.seq > seen]
        # The events are bytes already: they are put in as they are.
        raw = replace(mine_only, events=cast("Any", [msgspec.Raw(data) for _, data in mine]))
        return [Told(mine_only, encode(raw), told.cursor)]

    def _mine(self, event: Event) -> bool:
        if self._turn_id is not None:
            return event.turn_id == self._turn_id
        return isinstance(event, Message) and event.id == self._message_id

    def _ends(self, event: DurableEvent) -> bool:
        return isinstance(event, TurnEnd) or self._turn_id is None

    def _close(self, event: Event) -> None:
        if isinstance(event, TurnEnd):
            self.end = event
            self.over = True
        elif self._turn_id is None:
            self.over = True
