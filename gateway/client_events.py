"""What the client's consumers wait on: bounded queues of events, and what happens when one is full."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self
from weakref import WeakSet

from protocol.frames import Event, Snapshot

__all__ = ["Broadcast", "Events", "Frame"]

Frame = Event | Snapshot
_PATIENCE: Final = 5.0


class Events:
    """Frames of one context, or of all, since this was made. Each event follows the one before, except where a
    `Snapshot` stands in the place of those between: it replaces all that was known of its context.

    One task iterates it. It ends when its context is deleted or left, and with the client; it raises `Disconnected` or
    `Refused` where they end it. `aclose` ends it early; so does letting go of it.
    """

    def __init__(
        self,
        broadcast: Broadcast,
        context_id: str | None,
        bound: int,
        begin: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.context_id = context_id
        self.stalled = False
        self._broadcast = broadcast
        self._bound = bound
        self._begin = begin
        self._frames: deque[Frame] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        while not self._frames:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._begin is not None:
                begin, self._begin = self._begin, None
                await begin()
                continue
            self._news.clear()
            await self._news.wait()
        self.stalled = False
        frame = self._frames.popleft()
        self._broadcast.wake()
        return frame

    async def aclose(self) -> None:
        """Take no more."""
        self._frames.clear()
        self.end(None)

    @property
    def full(self) -> bool:
        return len(self._frames) >= self._bound

    def put(self, frame: Frame) -> None:
        if not self._ended and self.context_id in (None, frame.context_id):
            self._frames.append(frame)
            self._news.set()

    def collapse(self, snapshot: Callable[[str], Snapshot | None]) -> None:
        """Give up the single events that wait, for one snapshot a context."""
        contexts = dict.fromkeys(frame.context_id for frame in self._frames)
        made = {context_id: snapshot(context_id) for context_id in contexts}
        kept = [frame for frame in self._frames if made[frame.context_id] is None]
        self._frames = deque([*kept[-self._bound :], *(frame for frame in made.values() if frame is not None)])

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._news.set()
            self._broadcast.leave(self)


class Broadcast:
    """Gives every frame to every consumer that wants it.

    At the bound of a consumer (`bound` frames) the socket is not read until it takes one: the gateway then merges what
    it holds for us. That ends after `patience` seconds, or when somebody waits for an answer that can only come over
    this socket; the consumer then finds a snapshot in place of what it did not take, made by `snapshot`.
    """

    def __init__(
        self,
        snapshot: Callable[[str], Snapshot | None],
        answer_awaited: Callable[[], bool],
        *,
        bound: int = 256,
        patience: float = _PATIENCE,
    ) -> None:
        self._snapshot = snapshot
        self._answer_awaited = answer_awaited
        self._bound = bound
        self._patience = patience
        # Weak: a consumer that was let go of in the middle of its loop must hold nobody up.
        self._open: WeakSet[Events] = WeakSet()
        self._crowded = False
        self._moved = asyncio.Event()
        self._ended: tuple[Exception | None] | None = None

    def open(self, context_id: str | None = None, begin: Callable[[], Awaitable[None]] | None = None) -> Events:
        events = Events(self, context_id, self._bound, begin)
        self._open.add(events)
        if self._ended is not None:
            events.end(self._ended[0])
        return events

    def deliver(self, frame: Frame) -> None:
        for events in tuple(self._open):
            events.put(frame)
            self._crowded = self._crowded or events.full

    async def make_room(self) -> None:
        """Wait, within the limits above, until nobody's queue is full."""
        if not self._crowded:
            return
        try:
            async with asyncio.timeout(self._patience):
                while not self._answer_awaited() and any(e.full and not e.stalled for e in self._open):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            for events in self._open:
                events.stalled = events.stalled or events.full
        for events in self._open:
            if events.full:
                events.collapse(self._snapshot)
        self._crowded = False

    def wake(self) -> None:
        """A frame was taken, or somebody waits for an answer."""
        self._moved.set()

    def leave(self, events: Events) -> None:
        self._open.discard(events)
        self._moved.set()

    def drop(self, context_id: str, error: Exception | None) -> None:
        """The context is followed no more."""
        for events in tuple(self._open):
            if events.context_id == context_id:
                events.end(error)

    def end(self, error: Exception | None) -> None:
        """Nothing comes any more, for anybody."""
        self._ended = (error,)
        for events in tuple(self._open):
            events.end(error)
