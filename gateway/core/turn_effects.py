"""What the turn machine asks its driver to do. The driver carries them out in the order given."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from protocol.frames import DurableEvent, LiveEvent, ToolResponse
from stores.records import Asked

__all__ = [
    "Action",
    "Append",
    "CallModel",
    "Effect",
    "End",
    "Expire",
    "Park",
    "Publish",
    "Route",
    "RunTool",
    "StopModel",
    "StopTool",
    "Store",
    "TellTool",
]

Action = Literal["accept", "decline", "cancel"]


class Store(Struct, frozen=True):
    """Store the events, in order, then append them to the log. `asked` is what a person is to decide about, of a call
    among them that waits for that."""

    events: tuple[DurableEvent, ...]
    asked: Asked | None = None


class Expire(Struct, frozen=True):
    """Store what is answered for those who have not come in time, but for calls that somebody acted on meanwhile, and
    tell the machine (`expired`) what was stored. `undecided` are the calls that a decision is such an act for."""

    events: tuple[ToolResponse, ...]
    undecided: frozenset[str]


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
    """Run a call; `decided`: a person allowed it, for the tool as it was then."""

    call_id: str
    tool: str
    parameters: dict[str, Any]
    decided: bool = False


class StopTool(Struct, frozen=True):
    call_id: str


class TellTool(Struct, frozen=True):
    """What became of a running tool's question. Where its call is stopped it is not told: nobody listens any more."""

    question_id: str
    action: Action
    content: dict[str, Any] | None = None


class Park(Struct, frozen=True):
    """Only people or clients are waited for: give the turn up until one of them answers, or until `wake_at` (seconds
    since 1970; None: however long it takes)."""

    wake_at: float | None = None


class End(Struct, frozen=True):
    """Store the turn's last events. Where `may_continue`, the store refuses if there is something unread."""

    events: tuple[DurableEvent, ...]
    may_continue: bool


Effect = Store | Expire | Append | Publish | CallModel | StopModel | RunTool | StopTool | TellTool | Park | End


class Route(Struct, frozen=True, kw_only=True):
    """Where a call goes. A `refusal` (status and words for the model) means that it runs nowhere; `asked` is what a
    person who is asked decides about, as it is now."""

    runs_on: Literal["server", "client"] = "server"
    session_id: str | None = None
    ask: bool = False
    asked: Asked | None = None
    refusal: tuple[Literal["error", "denied"], str] | None = None
