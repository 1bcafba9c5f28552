"""What the turn machine asks its driver to do. The driver carries them out in the order given."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from protocol.frames import DurableEvent, LiveEvent

__all__ = [
    "Append",
    "CallModel",
    "Effect",
    "End",
    "Park",
    "Publish",
    "Route",
    "RunTool",
    "StopModel",
    "StopTool",
    "Store",
]


class Store(Struct, frozen=True):
    """Store the events, in order, then append them to the log."""

    events: tuple[DurableEvent, ...]


class Append(Struct, frozen=True):
    """Append an event that somebody else stored."""

    event: DurableEvent


class Publish(Struct, frozen=True):
    """Append an event that is live only."""

    event: LiveEvent


class CallModel(Struct, frozen=True):
    """Begin a step: its message is `message_id`; `retry` counts how often it failed before, for the backoff; `reads`
    is the last steering message that it is given, None where it is given none."""

    message_id: str
    retry: int
    reads: str | None = None


class StopModel(Struct, frozen=True):
    """Nobody waits for the model's answer any more."""


class RunTool(Struct, frozen=True):
    call_id: str
    tool: str
    parameters: dict[str, Any]


class StopTool(Struct, frozen=True):
    call_id: str


class Park(Struct, frozen=True):
    """Only people or clients are waited for: give the turn up until one of them answers."""


class End(Struct, frozen=True):
    """Store the turn's last events. Where `may_continue`, the store refuses if there is something unread."""

    events: tuple[DurableEvent, ...]
    may_continue: bool


Effect = Store | Append | Publish | CallModel | StopModel | RunTool | StopTool | Park | End


class Route(Struct, frozen=True, kw_only=True):
    """Where a call goes. A `refusal` (status and words for the model) means that it runs nowhere."""

    runs_on: Literal["server", "client"] = "server"
    session_id: str | None = None
    ask: bool = False
    refusal: tuple[Literal["error", "denied"], str] | None = None
