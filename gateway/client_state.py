"""The client's side of the protocol as a state machine: what was sent, acknowledged and read, through any number of
sockets (docs/protocol.md, sections 1 to 3). No I/O.

Frames of the user go in with `submit` and come out with `next_frame` when they may be written; frames of the server go
in with `receive`, which says what is to be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.client_effects import (
    LEGAL,
    Answer,
    Deliver,
    Dropped,
    Effect,
    IllegalTransition,
    Opened,
    Phase,
    Renew,
    Resubscribe,
    Settled,
)
from gateway.core.fold import Gap, Transcript
from protocol.codec import encode
from protocol.frames import (
    Ack,
    Auth,
    CallTool,
    ClientFrame,
    ClientInfo,
    ContextChanged,
    Error,
    Event,
    Expiring,
    GoAway,
    Hello,
    Limits,
    Ping,
    Pong,
    Ready,
    SendMessage,
    ServerFrame,
    Snapshot,
    Subscribe,
    Subscribed,
    ToolSpec,
    Unsubscribe,
)
from protocol.ids import Cursor, new_id

__all__ = ["ClientState"]

_DEFAULT_LIMITS: Final = Limits(max_frame_bytes=1 << 20, max_unacked=64, messages_per_minute=600)
_CURSORS = "cursors."
_RETRY_SECONDS: Final = 1.0


class _Pending(Struct):
    """A frame without an answer. A passing one is of use on this socket only, and is not sent on the next one."""

    frame: ClientFrame
    passing: bool = False
    written: bool = False


class ClientState:
    """One session as its client knows it.

    `followed` are the contexts that are read, by id. `max_unacked` frames at most are in flight; those after them wait,
    in order. `session_id` is a session to resume that an earlier client had: until contexts are followed here, those
    that it followed are followed again.
    """

    def __init__(
        self,
        *,
        client: ClientInfo | None = None,
        tools: Sequence[ToolSpec] = (),
        session_id: str | None = None,
    ) -> None:
        self.phase = Phase.AWAY
        self.session_id = session_id
        self.attempt = 0
        self.limits = _DEFAULT_LIMITS
        self.followed: dict[str, Transcript] = {}
        self.goaway: GoAway | None = None
        self.last_error: Error | None = None
        self._client = client
        self._tools = list(tools)
        self._inherit = session_id is not None
        self._pending: dict[str, _Pending] = {}
        self._unwritten: deque[str] = deque()
        self._in_flight = 0
        # Contexts whose events don't count until the subscription of that id is confirmed.
        self._deaf: dict[str, str] = {}
        self._gaps: dict[str, Cursor | None] = {}

    @property
    def waiting(self) -> int:
        """How many frames have no answer yet."""
        return len(self._pending)

    @property
    def inherits(self) -> bool:
        """Whether what comes may be of an earlier client's time, whose session it was."""
        return self._inherit

    def go(self, phase: Phase) -> None:
        if phase not in LEGAL[self.phase]:
            raise IllegalTransition(f"{self.phase.value} -> {phase.value}")
        self.phase = phase

    # ---- sockets

    def hello(self, token: str | None) -> Hello:
        """A socket is open: the frame to begin with."""
        self.go(Phase.OPENING)
        self.attempt += 1
        self.goaway = None
        self.last_error = None
        cursors = {key: str(t.cursor) if t.cursor is not None else None for key, t in self.followed.items()}
        return Hello(
            token=token,
            session_id=self.session_id,
            attempt=self.attempt,
            cursors=None if self._inherit else cursors,
            client=self._client,
            tools=self._tools,
        )

    def lost(self) -> None:
        """The socket is gone: what was not acknowledged is written again, in order, after the next `ready`."""
        self.go(Phase.AWAY)
        self._pending = {key: entry for key, entry in self._pending.items() if not entry.passing}
        for entry in self._pending.values():
            entry.written = False
        self._unwritten = deque(self._pending)
        self._in_flight = 0
        self._deaf.clear()
        self._gaps.clear()

    # ---- sending

    def submit(self, frame: ClientFrame, *, passing: bool = False) -> None:
        """Have the frame written. A frame whose id waits for its answer already is that one."""
        if isinstance(frame, Hello):
            raise TypeError("hello is the state's own")
        if frame.id in self._pending:
            return
        if isinstance(frame, Unsubscribe):
            self.followed.pop(frame.context_id, None)
        self._pending[frame.id] = _Pending(frame, passing)
        self._unwritten.append(frame.id)

    def withdraw(self, frame_id: str) -> bool:
        """Forget a frame that was never written; False where it may have been."""
        if frame_id not in self._unwritten or self._pending[frame_id].written:
            return False
        self._unwritten.remove(frame_id)
        del self._pending[frame_id]
        return True

    def next_frame(self) -> ClientFrame | None:
        """The next frame to write now, which is then in flight."""
        if self.phase is not Phase.READY or not self._unwritten or self._in_flight >= self.limits.max_unacked:
            return None
        entry = self._pending[self._unwritten.popleft()]
        entry.written = True
        self._in_flight += 1
        frame = entry.frame
        if isinstance(frame, Subscribe) and not entry.passing and frame.context_id in self.followed:
            # The context came to be followed while this waited. What comes before the answer comes again after it.
            cursor = self.followed[frame.context_id].cursor
            self._deaf[frame.context_id] = frame.id
            return replace(frame, cursor=str(cursor) if cursor is not None else None)
        return frame

    def too_large(self, frame: ClientFrame) -> bool:
        """Whether the gateway would close the socket for it."""
        return len(encode(frame)) > self.limits.max_frame_bytes

    def resubscribe(self, context_id: str) -> None:
        """Follow the context again, from what was read of it, if it is still to be followed."""
        if self.phase is Phase.READY and context_id in self.followed and context_id not in self._deaf:
            self._subscribe(context_id)

    def _subscribe(self, context_id: str) -> None:
        """Once where nothing has been read since the last gap, the cursor is at fault, and is left out."""
        cursor = self.followed[context_id].cursor
        stuck = context_id in self._gaps and self._gaps[context_id] == cursor
        self._gaps[context_id] = cursor
        frame = Subscribe(
            id=new_id("sub_"),
            context_id=context_id,
            cursor=None if stuck or cursor is None else str(cursor),
        )
        self._deaf[context_id] = frame.id
        self.submit(frame, passing=True)

    # ---- receiving

    def receive(self, frame: ServerFrame) -> list[Effect]:
        """Take in a frame; what is to be done, in order. Raises IllegalTransition."""
        match frame:
            case Ready():
                return self._ready(frame)
            case Ack():
                return self._ack(frame)
            case Pong():
                return self._settle(frame.id, frame)
            case Subscribed():
                return self._subscribed(frame)
            case Error():
                return self._error(frame)
            case Snapshot():
                return self._snapshot(frame)
            case GoAway():
                self.go(Phase.DRAINING)
                self.goaway = frame
                return []
            case Expiring():
                return [Renew(float(frame.expires_in))]
            case _:
                return self._event(frame)

    def _ready(self, frame: Ready) -> list[Effect]:
        self.go(Phase.READY)
        self.session_id = frame.session_id
        self.limits = frame.limits
        self._inherit = self._inherit and frame.resumed
        if self._inherit:
            # Its answer comes after the last of the contexts that the session followed.
            self.submit(Ping(id=new_id("ping_")), passing=True)
        effects: list[Effect] = [Opened(frame)]
        for key in list(self._unwritten):
            if self.too_large(self._pending[key].frame):
                self._unwritten.remove(key)
                del self._pending[key]
                told = Error(code="too_large", message="the frame is larger than the gateway takes", retryable=False)
                effects.append(Settled(key, told))
        return effects

    def _take(self, frame_id: str) -> _Pending | None:
        entry = self._pending.pop(frame_id, None)
        if entry is not None:
            if entry.written:
                self._in_flight -= 1
                self._inherit = False
            else:
                self._unwritten.remove(frame_id)
        return entry

    def _settle(self, frame_id: str, answer: Answer) -> list[Effect]:
        entry = self._take(frame_id)
        return [Settled(frame_id, answer)] if entry is not None and not entry.passing else []

    def _ack(self, ack: Ack) -> list[Effect]:
        entry = self._take(ack.id)
        if entry is None:
            return []
        frame = entry.frame
        if isinstance(frame, Unsubscribe):
            self.followed.pop(frame.context_id, None)
            self._deaf.pop(frame.context_id, None)
        elif isinstance(frame, SendMessage | CallTool) and ack.context_id is not None:
            self._sender_follows(ack, ack.context_id)
        return [] if entry.passing else [Settled(ack.id, ack)]

    def _sender_follows(self, ack: Ack, context_id: str) -> None:
        known = context_id in self.followed
        transcript = self.followed.setdefault(context_id, Transcript(context_id))
        if ack.epoch is not None:
            # Before its first event a context has nothing to miss; of any other one a snapshot comes.
            if ack.seq == 1:
                transcript.resume(Cursor(int(ack.epoch), 0))
        elif not known:
            self._subscribe(context_id)

    def _subscribed(self, frame: Subscribed) -> list[Effect]:
        key = frame.context_id
        if frame.id is None:
            self.followed.setdefault(key, Transcript(key))
            return []
        entry = self._take(frame.id)
        if self._deaf.get(key) == frame.id:
            del self._deaf[key]
        if entry is None or entry.passing:
            return []
        self.followed.setdefault(key, Transcript(key))
        return [Settled(frame.id, frame)]

    def _error(self, error: Error) -> list[Effect]:
        if error.id is None:
            self.last_error = error
            if error.path is not None and error.path.startswith(_CURSORS):
                return self._unfollowed(error.path.removeprefix(_CURSORS), error)
            return []
        entry = self._pending.get(error.id)
        if entry is None:
            return []
        if self.phase is Phase.DRAINING and error.code == "unavailable" and not entry.passing:
            return []  # another instance takes it: it is written again there
        self._take(error.id)
        effects: list[Effect] = [] if entry.passing else [Settled(error.id, error)]
        frame = entry.frame
        if isinstance(frame, Subscribe) and self._deaf.get(frame.context_id) == frame.id:
            del self._deaf[frame.context_id]
            effects += self._unfollowed(frame.context_id, error)
        elif isinstance(frame, Auth):
            self.last_error = error
        return effects

    def _unfollowed(self, context_id: str, error: Error) -> list[Effect]:
        """The gateway does not let us follow what we followed."""
        if context_id not in self.followed:
            return []
        if error.retryable:
            return [Resubscribe(context_id, error.retry_after or _RETRY_SECONDS)]
        del self.followed[context_id]
        return [Dropped(context_id, error)]

    def _snapshot(self, frame: Snapshot) -> list[Effect]:
        transcript = self.followed.get(frame.context_id)
        if transcript is None or frame.context_id in self._deaf:
            return []
        transcript.snapshot(frame)
        self._gaps.pop(frame.context_id, None)
        return [Deliver(frame)]

    def _event(self, event: Event) -> list[Effect]:
        transcript = self.followed.get(event.context_id)
        if transcript is None or event.context_id in self._deaf:
            return []
        try:
            transcript.apply(event)
        except Gap:
            self._subscribe(event.context_id)
            return []
        if isinstance(event, ContextChanged) and event.deleted:
            del self.followed[event.context_id]
            return [Deliver(event), Dropped(event.context_id, None)]
        return [Deliver(event)]
