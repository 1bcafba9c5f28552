"""One socket's part of the protocol as a state machine (docs/protocol.md, sections 1 and 5).

Frames go in, effects come out; what may follow what stands in `LEGAL`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

from gateway.core.limits import TokenBucket, WindowCounter
from protocol.codec import error_frame
from protocol.errors import ProtocolError
from protocol.frames import ClientFrame, Error, Hello, Ping, Pong

__all__ = ["LEGAL", "Handle", "IllegalTransition", "Open", "Reply", "SessionMachine", "SessionState", "Shut"]

_MAX_INVALID, _INVALID_WINDOW = 20, 60.0


class SessionState(Enum):
    HELLO = "hello"  # the socket is open, `hello` has not come
    OPENING = "opening"  # `hello` came, `ready` has not gone out
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


LEGAL: Final[dict[SessionState, frozenset[SessionState]]] = {
    SessionState.HELLO: frozenset({SessionState.OPENING, SessionState.DRAINING, SessionState.CLOSED}),
    SessionState.OPENING: frozenset({SessionState.READY, SessionState.DRAINING, SessionState.CLOSED}),
    SessionState.READY: frozenset({SessionState.DRAINING, SessionState.CLOSED}),
    SessionState.DRAINING: frozenset({SessionState.CLOSED}),
    SessionState.CLOSED: frozenset(),
}


class IllegalTransition(Exception):
    """A bug of ours: the machine stays as it was."""


class Reply(Struct, frozen=True):
    """Send a frame."""

    frame: Error | Pong


class Open(Struct, frozen=True):
    """Find or make the session, then answer `ready`."""

    hello: Hello


class Handle(Struct, frozen=True):
    """Carry the frame out and answer it."""

    frame: ClientFrame


class Shut(Struct, frozen=True):
    """Close the socket."""

    code: int


Effect = Reply | Open | Handle | Shut


class SessionMachine:
    """`frames_per_minute` is what one socket may send of everything together."""

    def __init__(self, frames_per_minute: int) -> None:
        self.state = SessionState.HELLO
        self._invalid = WindowCounter(_MAX_INVALID, _INVALID_WINDOW)
        self._rate = TokenBucket(frames_per_minute / 60, frames_per_minute)

    def go(self, state: SessionState) -> None:
        if state not in LEGAL[self.state]:
            raise IllegalTransition(f"{self.state.value} -> {state.value}")
        self.state = state

    def frame(self, frame: ClientFrame, now: float) -> list[Effect]:
        """A frame that was understood. What comes after the end is not heard."""
        if self.state is SessionState.CLOSED:
            return []
        wait = self._rate.take(now)
        if wait:
            return self._flood(frame, wait)
        if self.state is SessionState.DRAINING and not isinstance(frame, Ping):
            error = ProtocolError("unavailable", "this instance is draining; reconnect", retry_after=1)
            return [Reply(error_frame(error, _id_of(frame)))]
        if isinstance(frame, Hello):
            if self.state is not SessionState.HELLO:
                return self.invalid(ProtocolError("invalid_frame", "hello was said before", path="type"), now)
            self.go(SessionState.OPENING)
            return [Open(frame)]
        if self.state is SessionState.HELLO:
            refusal = ProtocolError("invalid_frame", "the first frame is hello", path="type", frame_id=frame.id)
            return self.invalid(refusal, now)
        return [Reply(Pong(id=frame.id))] if isinstance(frame, Ping) else [Handle(frame)]

    def invalid(self, error: ProtocolError, now: float) -> list[Effect]:
        """A message that is no frame: answered, and after too many of them the socket is closed."""
        if self.state is SessionState.CLOSED:
            return []
        effects: list[Effect] = [Reply(error_frame(error))]
        if self._invalid.add(now):
            effects.append(Shut(4400))
        return effects

    def _flood(self, frame: ClientFrame, wait: float) -> list[Effect]:
        error = ProtocolError("rate_limited", "too many frames on this socket", retry_after=round(wait, 3))
        return [Reply(error_frame(error, _id_of(frame))), Shut(4429)]


def _id_of(frame: ClientFrame) -> str | None:
    return None if isinstance(frame, Hello) else frame.id
