"""What a conversation asks a front end to show, in order."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from protocol.frames import ToolCall

__all__ = ["Anew", "Asked", "Called", "Ended", "Finished", "Gone", "Missed", "Over", "Piece", "Said", "Shown", "Titled"]


class Said(Struct, frozen=True):
    """A message that is no answer, whole; `mine` says that it was sent from here."""

    id: str
    text: str
    mine: bool


class Piece(Struct, frozen=True):
    """The next piece of an answer."""

    message_id: str
    channel: Literal["text", "reasoning"]
    text: str


class Finished(Struct, frozen=True):
    """The answer's message is whole: what comes next is another one."""

    message_id: str


class Anew(Struct, frozen=True):
    """What was shown of the answer is void: its pieces come from its beginning."""

    message_id: str


class Called(Struct, frozen=True):
    """A tool runs."""

    call: ToolCall


class Asked(Struct, frozen=True):
    """A call waits until a person allows or denies it."""

    call: ToolCall


class Ended(Struct, frozen=True):
    """A call is over. `call` is None where only its response was seen."""

    call: ToolCall | None
    status: str
    result: Any


class Titled(Struct, frozen=True):
    """The conversation has a title."""

    title: str


class Missed(Struct, frozen=True):
    """Part of the conversation is in its history only, and is not shown."""


class Over(Struct, frozen=True):
    """A turn is over; `reason` says why where it was not simply completed."""

    turn_id: str
    status: str
    reason: str | None = None


class Gone(Struct, frozen=True):
    """The conversation was deleted."""


Shown = Said | Piece | Finished | Anew | Called | Asked | Ended | Titled | Missed | Over | Gone
