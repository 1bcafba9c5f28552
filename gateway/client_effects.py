"""The phases of a client's connection, and what its state machine asks to be done."""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

from protocol.frames import Ack, Error, Event, Pong, Ready, Snapshot, Subscribed

__all__ = [
    "LEGAL",
    "Answer",
    "Deliver",
    "Dropped",
    "Effect",
    "IllegalTransition",
    "Opened",
    "Phase",
    "Renew",
    "Resubscribe",
    "Settled",
]

Answer = Ack | Pong | Subscribed | Error


class Phase(Enum):
    AWAY = "away"  # there is no socket
    OPENING = "opening"  # `hello` is on its way
    READY = "ready"
    DRAINING = "draining"  # the instance is about to go: nothing more is sent to it


LEGAL: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.AWAY: frozenset({Phase.OPENING}),
    Phase.OPENING: frozenset({Phase.READY, Phase.DRAINING, Phase.AWAY}),
    Phase.READY: frozenset({Phase.DRAINING, Phase.AWAY}),
    Phase.DRAINING: frozenset({Phase.DRAINING, Phase.AWAY}),
}


class IllegalTransition(Exception):
    """The server said something that it may not say now; the state stays as it was."""


class Opened(Struct, frozen=True):
    """The session is open, or open again."""

    ready: Ready


class Deliver(Struct, frozen=True):
    """An event, or what stands in the place of events, that followers of its context have not seen. It is folded."""

    frame: Event | Snapshot


class Settled(Struct, frozen=True):
    """The frame of this id is answered."""

    id: str
    answer: Answer


class Dropped(Struct, frozen=True):
    """The context is not followed any more: it was deleted (`error` None) or refused."""

    context_id: str
    error: Error | None


class Resubscribe(Struct, frozen=True):
    """Call `resubscribe` for the context after so many seconds."""

    context_id: str
    seconds: float


class Renew(Struct, frozen=True):
    """The credentials expire in so many seconds."""

    seconds: float


Effect = Opened | Deliver | Settled | Dropped | Resubscribe | Renew
