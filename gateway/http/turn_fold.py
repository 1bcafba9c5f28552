"""A turn as one JSON document: its durable events so far, and whether it waits for a person."""

from __future__ import annotations

from gateway.core.fold import event_key
from gateway.http.told import Told, raw_events
from protocol.codec import decode_durable
from protocol.frames import DurableEvent, Message, MessageStart, Snapshot, ToolApproval, ToolCall, ToolResponse

__all__ = ["TurnFold"]


class TurnFold:
    """Takes in what a turn's reader is told, from the turn's beginning."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._events: dict[str, bytes] = {}
        self._writing: set[str] = set()
        self._written: set[str] = set()
        self._calls: dict[str, ToolCall] = {}
        self._decided: dict[str, bool] = {}

    def take(self, told: Told) -> None:
        frame = told.frame
        if isinstance(frame, Snapshot):
            self._begin()
            self._writing = {partial.message_id for partial in frame.partial}
            for data in raw_events(told.data):
                self._take(decode_durable(data), data)
        elif isinstance(frame, MessageStart):
            self._writing.add(frame.id)
        elif isinstance(frame, DurableEvent):
            self._take(frame, told.data)

    def _take(self, event: DurableEvent, data: bytes) -> None:
        self._events.setdefault(event_key(event), data)
        if isinstance(event, Message):
            self._writing.discard(event.id)
            self._written.add(event.id)
        elif isinstance(event, ToolCall):
            self._calls[event.id] = event
        elif isinstance(event, ToolApproval):
            self._decided.setdefault(event.tool_call_id, event.approved)
        elif isinstance(event, ToolResponse):
            self._calls.pop(event.tool_call_id, None)

    @property
    def waits(self) -> bool:
        """Whether nothing goes on until a person decides or a client answers."""
        calls = self._calls.values()
        return bool(calls) and not self._writing and all(self._waits(call) for call in calls)

    def _waits(self, call: ToolCall) -> bool:
        if call.message_id is not None and call.message_id not in self._written:
            return False
        if call.approval is not None and not self._decided.get(call.id, False):
            return call.id not in self._decided
        return call.runs_on == "client" or self._asks(call)

    def _asks(self, call: ToolCall) -> bool:
        """Whether it runs, and waits for a person to answer what it asks."""
        return any(each.asked_by == call.id and each.id not in self._decided for each in self._calls.values())

    def document(self) -> bytes:
        return b'{"events":[%b]}' % b",".join(self._events.values())
