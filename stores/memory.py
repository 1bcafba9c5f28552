"""Every hot port in process: the live log, wake-up calls, heartbeats and small values of a single instance."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

from protocol.codec import with_seq
from protocol.frames import Delta, Event, Message, MessageStart, ToolProgress, ToolResponse, TurnEnd
from stores.ports import EpochOver, Follower, StaleFence, StoreError
from stores.records import (
    ContextKey,
    Entry,
    Head,
    LogBatch,
    LogEvent,
    LogFold,
    OpenMessage,
    Progress,
    Publication,
)

__all__ = ["MemoryBus", "MemoryCache", "MemoryHeartbeats", "MemoryLog"]

_REMEMBERED_WRITERS = 16
_REMEMBERED_FENCES = 1024
_KEEP_IDS = 3600.0

Clock = Callable[[], float]


class _Open:
    """A message that is being written; its pieces are joined only when somebody asks."""

    __slots__ = ("attempt", "message_id", "model", "pieces", "turn_id")

    def __init__(self, start: MessageStart) -> None:
        self.message_id = start.id
        self.turn_id = start.turn_id or ""
        self.model = start.model
        self.attempt = start.attempt
        self.pieces: dict[str, list[str]] = {"text": [], "reasoning": []}

    def joined(self, channel: str) -> str:
        pieces = self.pieces[channel]
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0] if pieces else ""

    def value(self) -> OpenMessage:
        return OpenMessage(
            message_id=self.message_id,
            turn_id=self.turn_id,
            model=self.model,
            attempt=self.attempt,
            text=self.joined("text"),
            reasoning=self.joined("reasoning"),
        )


class _Log:
    """One context's log. `base` is the seq before the oldest entry that the tail still has."""

    __slots__ = (
        "base",
        "epoch",
        "fences",
        "followers",
        "head",
        "ids",
        "marks",
        "open",
        "progress",
        "recorded",
        "tail",
        "tail_bytes",
        "touched",
        "writers",
    )

    def __init__(self, epoch: int, base: int, now: float) -> None:
        self.epoch = epoch
        self.base = self.head = self.recorded = base
        self.tail: deque[Entry] = deque()
        self.tail_bytes = 0
        self.ids: dict[str, int] = {}
        self.marks: deque[tuple[float, int]] = deque()
        self.open: dict[str, _Open] = {}
        self.progress: dict[str, Progress] = {}
        self.fences: OrderedDict[str, int] = OrderedDict()
        self.writers: OrderedDict[str, dict[str, int]] = OrderedDict()
        self.touched = now

    @property
    def settled(self) -> bool:
        """Whether nothing would be lost with it: no open message, and the store knows every seq."""
        return not self.open and (not self.ids or self.recorded >= next(reversed(self.ids.values())))

    def fold(self, event: Event) -> None:
        if isinstance(event, Delta):
            opened = self.open.get(event.message_id)
            if opened is not None:
                opened.pieces[event.channel].append(event.text)
        elif isinstance(event, MessageStart):
            self.open[event.id] = _Open(event)
        elif isinstance(event, Message):
            self.open.pop(event.id, None)
        elif isinstance(event, ToolProgress):
            self.progress[event.tool_call_id] = Progress(
                call_id=event.tool_call_id, progress=event.progress, total=event.total, message=event.message
            )
        elif isinstance(event, ToolResponse):
            self.progress.pop(event.tool_call_id, None)
        elif isinstance(event, TurnEnd):
            for opened in [o for o in self.open.values() if o.turn_id == event.turn_id]:
                del self.open[opened.message_id]


class MemoryLog:
    """EventLog of one process. `max_bytes` bounds the tail of a context, `ttl` (seconds) is how long the log of a
    context that nobody follows or writes is kept."""

    def __init__(self, *, max_bytes: int = 1 << 20, ttl: float = 600.0, clock: Clock = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        # Least recently used first, so that what has expired is found without a timer.
        self._logs: OrderedDict[ContextKey, _Log] = OrderedDict()
        self._followers: dict[ContextKey, list[Follower]] = {}

    def __len__(self) -> int:
        return len(self._logs)

    async def head(self, key: ContextKey) -> Head | None:
        log = self._touch(key)
        return Head(log.epoch, log.head) if log else None

    async def heads(self, keys: Sequence[ContextKey]) -> list[Head | None]:
        return [await self.head(key) for key in keys]

    async def begin(self, key: ContextKey, epoch: int, base: int) -> bool:
        log = self._logs.get(key)
        if log is not None and log.epoch >= epoch:
            return False
        self._logs[key] = _Log(epoch, base, self._clock())
        self._logs.move_to_end(key)
        self._evict()
        return True

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        return [self._append(batch) for batch in batches]

    def _append(self, batch: LogBatch) -> dict[str, int] | StoreError:
        log = self._touch(batch.key)
        if log is None or log.epoch != batch.epoch:
            return EpochOver()
        if batch.writer in log.writers:
            return log.writers[batch.writer]
        if batch.turn_id is not None:
            if batch.fence < log.fences.get(batch.turn_id, 0):
                return StaleFence()
            log.fences[batch.turn_id] = batch.fence
            log.fences.move_to_end(batch.turn_id)
            if len(log.fences) > _REMEMBERED_FENCES:
                log.fences.popitem(last=False)
        seqs: dict[str, int] = {}
        entries = self._add(log, batch.events, seqs)
        log.writers[batch.writer] = seqs
        if len(log.writers) > _REMEMBERED_WRITERS:
            log.writers.popitem(last=False)
        if entries:
            publication = Publication(batch.key, log.epoch, entries)
            for follower in tuple(self._followers.get(batch.key, ())):
                follower(publication)
        return seqs

    def _add(self, log: _Log, events: Sequence[LogEvent], seqs: dict[str, int]) -> list[Entry]:
        entries: list[Entry] = []
        for event in events:
            if event.id is not None:
                known = log.ids.get(event.id)
                if known is not None:
                    seqs[event.id] = known
                    continue
                log.ids[event.id] = seqs[event.id] = log.head + 1
            log.head += 1
            entry = Entry(log.head, with_seq(event.body, log.head), log.head)
            entries.append(entry)
            log.tail.append(entry)
            log.tail_bytes += len(entry.data)
            log.fold(event.event)
        while log.tail_bytes > self._max_bytes and len(log.tail) > 1:
            oldest = log.tail.popleft()
            log.tail_bytes -= len(oldest.data)
            log.base = oldest.seq
        return entries

    async def read(self, key: ContextKey, epoch: int, after: int, limit: int) -> list[Entry] | None:
        log = self._touch(key)
        if log is None or log.epoch != epoch or not log.base <= after <= log.head:
            return None
        entries: list[Entry] = []
        size = 0
        # The tail has no gaps, so the place of a seq is known; a deque indexes from its nearer end.
        for place in range(after - log.base, len(log.tail)):
            entry = log.tail[place]
            entries.append(entry)
            size += len(entry.data)
            if size > limit:
                break
        return entries

    async def fold(self, key: ContextKey) -> LogFold | None:
        log = self._touch(key)
        if log is None:
            return None
        return LogFold(
            epoch=log.epoch,
            seq=log.head,
            ids=dict(log.ids),
            open=[opened.value() for opened in log.open.values()],
            progress=dict(log.progress),
        )

    async def ids(self, key: ContextKey, epoch: int, upto: int) -> dict[str, int] | None:
        log = self._logs.get(key)
        if log is None or log.epoch != epoch:
            return None
        found: dict[str, int] = {}
        for event_id, seq in reversed(log.ids.items()):
            if seq <= log.recorded:
                break
            if seq <= upto:
                found[event_id] = seq
        return found

    async def recorded(self, key: ContextKey, epoch: int, seq: int) -> None:
        log = self._logs.get(key)
        if log is None or log.epoch != epoch or seq <= log.recorded:
            return
        now = self._clock()
        log.recorded = seq
        log.marks.append((now, seq))
        forget = 0
        while log.marks and log.marks[0][0] <= now - _KEEP_IDS:
            forget = log.marks.popleft()[1]
        if forget:
            log.ids = {name: known for name, known in log.ids.items() if known > forget}

    async def drop(self, key: ContextKey) -> None:
        self._logs.pop(key, None)

    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        self._followers.setdefault(key, []).append(follower)

        async def stop() -> None:
            followers = self._followers.get(key, [])
            if follower in followers:
                followers.remove(follower)
            if not followers:
                self._followers.pop(key, None)

        return stop

    async def check(self) -> None:
        """Nothing can be away."""

    def _touch(self, key: ContextKey) -> _Log | None:
        log = self._logs.get(key)
        if log is not None:
            log.touched = self._clock()
            self._logs.move_to_end(key)
        return log

    def _evict(self) -> None:
        """Drop what has expired. What is still in use goes to the end, so that a call looks at few."""
        expired = self._clock() - self._ttl
        for _ in range(min(8, len(self._logs) - 1)):
            key, log = next(iter(self._logs.items()))
            if log.touched > expired:
                return
            if key in self._followers or not log.settled:
                self._logs.move_to_end(key)
            else:
                del self._logs[key]


class MemoryBus:
    """Bus of one process: a listener is called from the event loop, soon."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[[bytes], None]]] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    async def publish(self, channel: str, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners.get(channel, ()):
            loop.call_soon(listener, payload)

    async def listen(self, channel: str, listener: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        listeners = self._listeners.setdefault(channel, [])
        listeners.append(listener)

        async def stop() -> None:
            if listener in listeners:
                listeners.remove(listener)
            if not listeners and self._listeners.get(channel) is listeners:
                del self._listeners[channel]

        return stop


class MemoryHeartbeats:
    """Heartbeats of one process: it is the only instance there is."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    async def beat(self, instance: str, ttl: float) -> None:
        self._until[instance] = self._clock() + ttl

    async def stop(self, instance: str) -> None:
        self._until.pop(instance, None)

    async def alive(self) -> frozenset[str] | None:
        now = self._clock()
        return frozenset(instance for instance, until in self._until.items() if until > now)


class MemoryCache:
    """Cache of one process, of `max_items` and values of `max_bytes` together at most: beyond, what was set first goes
    first."""

    def __init__(self, max_items: int = 100_000, clock: Clock = time.monotonic, *, max_bytes: int = 64 << 20) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._clock = clock
        self._items: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        return self._live(key)

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        self._drop(key)
        self._items[key] = (value, self._clock() + ttl)
        self._bytes += len(value)
        while len(self._items) > self._max_items or self._bytes > self._max_bytes:
            self._drop(next(iter(self._items)))

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        if self._live(key) is not None:
            return False
        await self.set(key, value, ttl)
        return True

    async def take(self, key: str) -> bytes | None:
        value = self._live(key)
        self._drop(key)
        return value

    def _live(self, key: str) -> bytes | None:
        item = self._items.get(key)
        if item is None:
            return None
        if item[1] <= self._clock():
            self._drop(key)
            return None
        return item[0]

    def _drop(self, key: str) -> None:
        value, _ = self._items.pop(key, (b"", 0.0))
        self._bytes -= len(value)
