"""A gateway of a few lines for tests of the client's state: contexts, their logs, and one socket that may be cut."""

from __future__ import annotations

from collections import deque
from typing import Any

from gateway.client_effects import Deliver, Effect, Phase, Resubscribe, Settled
from gateway.client_state import ClientState
from gateway.core.fold import Transcript
from protocol.frames import (
    Ack,
    ClientFrame,
    Delta,
    Error,
    Event,
    Hello,
    Limits,
    Message,
    MessageStart,
    Partial,
    Ping,
    Pong,
    Ready,
    SendMessage,
    ServerFrame,
    Snapshot,
    Subscribe,
    Subscribed,
    TurnEnd,
    Unsubscribe,
    Usage,
)
from protocol.ids import Cursor

__all__ = ["LIMITS", "Cable", "PureGateway", "message", "partial", "ready"]

LIMITS = Limits(max_frame_bytes=2000, max_unacked=4, messages_per_minute=600)
EPOCH = 1


def ready(session_id: str = "sess_1", *, resumed: bool = False, limits: Limits = LIMITS) -> Ready:
    return Ready(
        session_id=session_id,
        resumed=resumed,
        subject="ann",
        heartbeat=20,
        limits=limits,
        models=["demo"],
        default_model="demo",
        instance="inst_1",
        version="1",
    )


def message(context_id: str, id: str, seq: int, content: str = "hi", **fields: Any) -> Message:
    fields = {"role": "user", "turn_id": id, **fields}
    return Message(context_id=context_id, id=id, seq=seq, content=content, timestamp="t", status="complete", **fields)


class PureGateway:
    """Keeps what it acknowledged; the oldest events of a log may be forgotten, so that a snapshot is needed."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Event]] = {}
        self.bases: dict[str, int] = {}
        self.stored: dict[str, str] = {}
        self.order: list[str] = []
        self.readers: dict[str, int] = {}
        self.attempt = 0

    def connect(self) -> None:
        self.readers = {}

    def frame(self, frame: ClientFrame) -> list[ServerFrame]:
        """What the gateway writes when it has read the frame."""
        if isinstance(frame, Hello):
            return self._hello(frame)
        if isinstance(frame, SendMessage):
            return self._message(frame)
        if isinstance(frame, Subscribe):
            return self._subscribe(frame.context_id, frame.cursor, frame.id)
        if isinstance(frame, Unsubscribe):
            self.readers.pop(frame.context_id, None)
            return [Ack(id=frame.id, context_id=frame.context_id)]
        if isinstance(frame, Ping):
            return [Pong(id=frame.id)]
        return [Ack(id=frame.id)]

    def append(self, context_id: str, event: Event) -> list[ServerFrame]:
        self.logs.setdefault(context_id, []).append(event)
        return self.pump(context_id)

    def next_seq(self, context_id: str) -> int:
        return len(self.logs.get(context_id, ())) + 1

    def pump(self, context_id: str) -> list[ServerFrame]:
        if context_id not in self.readers:
            return []
        seq = self.readers[context_id]
        self.readers[context_id] = len(self.logs[context_id])
        return list(self.logs[context_id][seq:])

    def fold(self, context_id: str) -> Transcript:
        transcript = Transcript(context_id)
        transcript.resume(Cursor(EPOCH, 0))
        for event in self.logs.get(context_id, ()):
            transcript.apply(event)
        return transcript

    def _hello(self, hello: Hello) -> list[ServerFrame]:
        assert hello.attempt is not None
        assert hello.attempt > self.attempt
        self.attempt = hello.attempt
        frames: list[ServerFrame] = [ready(resumed=hello.session_id is not None)]
        for context_id, cursor in (hello.cursors or {}).items():
            frames += self._subscribe(context_id, cursor, None)
        return frames

    def _message(self, frame: SendMessage) -> list[ServerFrame]:
        context_id = frame.context_id or f"conv_{frame.id}"
        duplicate = frame.id in self.stored
        created = context_id not in self.logs
        if not duplicate:
            self.stored[frame.id] = context_id
            self.order.append(frame.id)
            event = message(context_id, frame.id, self.next_seq(context_id), str(frame.content))
            self.logs.setdefault(context_id, []).append(event)
        fresh = context_id not in self.readers
        seq = next(e.seq for e in self.logs[context_id] if isinstance(e, Message) and e.id == frame.id)
        epoch = str(EPOCH) if fresh else None
        frames: list[ServerFrame] = [Ack(id=frame.id, context_id=context_id, epoch=epoch, seq=seq, duplicate=duplicate)]
        if fresh:
            self.readers[context_id] = 0
            if not created:
                frames.append(self._snapshot(context_id))
        return frames + self.pump(context_id)

    def _subscribe(self, context_id: str, cursor: str | None, frame_id: str | None) -> list[ServerFrame]:
        if context_id not in self.logs:
            path = None if frame_id is not None else f"cursors.{context_id}"
            return [Error(code="not_found", message="no such context", retryable=False, id=frame_id, path=path)]
        head = len(self.logs[context_id])
        at = Cursor.parse(cursor) if cursor is not None else None
        if at is not None and self.bases.get(context_id, 0) <= at.seq <= head:
            self.readers[context_id] = at.seq
            told = Subscribed(context_id=context_id, epoch=str(EPOCH), seq=at.seq, id=frame_id)
            return [told, *self.pump(context_id)]
        self.readers[context_id] = head
        return [
            Subscribed(context_id=context_id, epoch=str(EPOCH), seq=head, id=frame_id),
            self._snapshot(context_id),
        ]

    def _snapshot(self, context_id: str) -> Snapshot:
        fold = self.fold(context_id)
        self.readers[context_id] = head = len(self.logs[context_id])
        return Snapshot(
            context_id=context_id,
            epoch=str(EPOCH),
            seq=head,
            events=fold.events,
            has_more=False,
            partial=list(fold.partial.values()),
            running=list(fold.running.values()),
        )

    def speak(self, context_id: str, turn_id: str, words: int) -> list[ServerFrame]:
        """One assistant message, whole, with the end of its turn."""
        answer = f"{turn_id}_answer_{self.next_seq(context_id)}"
        frames = self.append(
            context_id,
            MessageStart(
                context_id=context_id,
                turn_id=turn_id,
                id=answer,
                role="assistant",
                model="m",
                attempt=1,
                seq=self.next_seq(context_id),
            ),
        )
        for word in range(words):
            seq = self.next_seq(context_id)
            delta = Delta(context_id=context_id, turn_id=turn_id, message_id=answer, text=f"{word} ", seq=seq)
            frames += self.append(context_id, delta)
        content = "".join(f"{word} " for word in range(words))
        seq = self.next_seq(context_id)
        frames += self.append(context_id, message(context_id, answer, seq, content, role="assistant", turn_id=turn_id))
        end = TurnEnd(
            context_id=context_id,
            turn_id=turn_id,
            seq=self.next_seq(context_id),
            status="complete",
            steps=1,
            usage=Usage(input_tokens=1, output_tokens=1),
        )
        return frames + self.append(context_id, end)


class Cable:
    """A socket between a state and the gateway: two queues, which a cut empties."""

    def __init__(self, state: ClientState, gateway: PureGateway) -> None:
        self.state = state
        self.gateway = gateway
        self.up: deque[ClientFrame] = deque()
        self.down: deque[ServerFrame] = deque()
        self.settled: list[Settled] = []
        self.delivered: dict[str, Transcript] = {}

    def connect(self) -> None:
        if self.state.phase is Phase.AWAY:
            self.gateway.connect()
            self.up.append(self.state.hello("token"))

    def cut(self) -> None:
        if self.state.phase is not Phase.AWAY:
            self.up.clear()
            self.down.clear()
            self.gateway.connect()
            self.state.lost()

    def write(self) -> None:
        while (frame := self.state.next_frame()) is not None:
            self.up.append(frame)
        in_flight = [frame for frame in self.up if not isinstance(frame, Hello)]
        assert len(in_flight) <= LIMITS.max_unacked

    def carry(self) -> None:
        """The gateway reads one frame."""
        if self.up:
            self.down.extend(self.gateway.frame(self.up.popleft()))

    def read(self) -> list[Effect]:
        """The client reads one frame; what it delivers must follow what it delivered before."""
        if not self.down:
            return []
        effects = self.state.receive(self.down.popleft())
        for effect in effects:
            if isinstance(effect, Settled):
                self.settled.append(effect)
            elif isinstance(effect, Deliver):
                self._deliver(effect.frame)
            elif isinstance(effect, Resubscribe):
                self.state.resubscribe(effect.context_id)
        return effects

    def _deliver(self, frame: Event | Snapshot) -> None:
        reader = self.delivered.setdefault(frame.context_id, Transcript(frame.context_id))
        if isinstance(frame, Snapshot):
            reader.snapshot(frame)
        else:
            reader.resume(Cursor(EPOCH, 0))
            reader.apply(frame)

    def settle(self) -> None:
        """Let everything that is under way arrive."""
        self.connect()
        for _ in range(10_000):
            self.write()
            if not (self.up or self.down):
                return
            self.carry()
            self.read()
        raise AssertionError("the client and the gateway never come to rest")


def partial(message_id: str, turn_id: str, text: str, attempt: int = 1) -> Partial:
    return Partial(message_id=message_id, turn_id=turn_id, model="m", attempt=attempt, text=text, reasoning="")
