"""One turn as a follower reads it, through snapshots and restarts: its frames, its text. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from gateway.client_errors import Lost
from gateway.core.fold import event_key
from protocol.content import plain_text
from protocol.frames import (
    ContextChanged,
    Delta,
    Event,
    Message,
    MessageStart,
    Snapshot,
    ToolApproval,
    ToolCall,
    ToolResponse,
    TurnEnd,
)

__all__ = ["PlainText", "Restarted", "TextDelta", "TextFollower", "TurnFollower"]

_DURABLE = (Message, ToolCall, ToolApproval, ToolResponse, TurnEnd, ContextChanged)


class TextDelta(Struct, frozen=True):
    """The next piece of an assistant message of the turn."""

    message_id: str
    text: str


class Restarted(Struct, frozen=True):
    """The message is begun again: what came of it is void, and its text comes again from its beginning."""

    message_id: str


Update = TextDelta | Restarted


class TurnFollower:
    """Which frames of a context belong to the turn that the frame `id` set off or, where it steers, joined."""

    def __init__(self, id: str) -> None:
        self.turn_id = id
        self.end: TurnEnd | None = None
        self._id = id
        # The newest durable event of the turn: a snapshot that holds it lacks nothing of the turn after it.
        self._newest = id

    def take(self, frame: Event | Snapshot) -> bool:
        """Whether the frame is of the turn, or stands for events of it. Raises Lost."""
        if isinstance(frame, Snapshot):
            self._snapshot(frame)
            return True
        return self._event(frame)

    def _event(self, event: Event) -> bool:
        if isinstance(event, Message) and event.id == self._id and event.turn_id is not None:
            self.turn_id = event.turn_id
        if event.turn_id != self.turn_id:
            return False
        if isinstance(event, _DURABLE):
            self._newest = event_key(event)
        if isinstance(event, TurnEnd):
            self.end = event
        return True

    def _snapshot(self, snapshot: Snapshot) -> None:
        if snapshot.has_more and all(event_key(event) != self._newest for event in snapshot.events):
            raise Lost(snapshot.context_id, self.turn_id)
        for event in snapshot.events:
            self._event(event)


class TextFollower:
    """The text of a turn's assistant messages, each piece once: pieces of one message, put together since its last
    `Restarted`, are its content."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def take(self, frame: Event | Snapshot, turn_id: str) -> Iterator[Update]:
        """What is new in a frame that `TurnFollower` took."""
        match frame:
            case MessageStart() if frame.role == "assistant":
                if frame.id in self._texts and frame.attempt != self._attempts.get(frame.id):
                    self._texts[frame.id] = ""
                    yield Restarted(frame.id)
                self._attempts[frame.id] = frame.attempt
                self._texts.setdefault(frame.id, "")
            case Delta() if frame.channel == "text" and frame.message_id in self._texts:
                self._texts[frame.message_id] += frame.text
                yield TextDelta(frame.message_id, frame.text)
            case Message() if frame.role == "assistant":
                yield from self._sync(frame.id, plain_text(frame.content))
            case Snapshot():
                for event in frame.events:
                    if isinstance(event, Message) and event.role == "assistant" and event.turn_id == turn_id:
                        yield from self._sync(event.id, plain_text(event.content))
                for partial in frame.partial:
                    if partial.turn_id == turn_id:
                        self._attempts[partial.message_id] = partial.attempt
                        yield from self._sync(partial.message_id, partial.text)
            case _:
                pass

    def _sync(self, message_id: str, text: str) -> Iterator[Update]:
        """The message's text is this: what follows of it, or all of it where it began otherwise."""
        known = self._texts.get(message_id)
        self._texts[message_id] = text
        if known and not text.startswith(known):
            yield Restarted(message_id)
            known = None
        fresh = text[len(known or "") :]
        if fresh:
            yield TextDelta(message_id, fresh)


class PlainText:
    """Updates as text that can't be taken back.

    Where a message is begun again, what repeats the text that was given is left out, and what goes on after it
    follows; where the new text differs, it follows whole on a new line.
    """

    def __init__(self) -> None:
        self._message: str | None = None
        self._given = ""
        self._again: str | None = None

    def take(self, update: Update) -> str:
        """The text to give now, if any."""
        if update.message_id != self._message:
            self._message, self._given, self._again = update.message_id, "", None
        if isinstance(update, Restarted):
            self._again = ""
            return ""
        if self._again is None:
            self._given += update.text
            return update.text
        self._again += update.text
        if self._given.startswith(self._again):
            return ""
        again, self._again = self._again, None
        given, self._given = self._given, again
        return again[len(given) :] if again.startswith(given) else "\n" + again
