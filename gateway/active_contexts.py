"""The conversations that are alive: as models are given them, and only ever added to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gateway.context_settings import ContextSettings, decode_settings
from gateway.core.thread import Node, Thread
from gateway.core.tokens import Calibration
from gateway.core.window import Cut
from gateway.patience import patiently
from protocol.codec import decode_durable
from protocol.frames import DurableEvent
from stores.ports import ContextStore, NotFound
from stores.records import ContextKey, ContextRecord, EventRow, Pin, Summary, ThreadRows

__all__ = ["ActiveContext", "ActiveContexts"]

_PAGE = 200
_ROW_BYTES = 900  # what an event takes in memory besides its text


class ActiveContext:
    """A context as far as it is loaded. `cuts` and `calibrations` are by the name of the model."""

    def __init__(self, record: ContextRecord) -> None:
        self.record = record
        self.settings: ContextSettings = decode_settings(record.settings)
        self.thread = Thread()
        self.size = 0  # bytes of events
        self.counted = 0  # how many of them whoever keeps it knows of
        self.summaries: dict[str, Summary] = {}
        self.pins: frozenset[Pin] = frozenset()
        self.pinned: dict[str, Node] = {}
        self.cuts: dict[str, Cut | None] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.failures = 0  # how often in a row a title or summary was not made
        self.turns_to_wait = 0  # before the next try

    @property
    def key(self) -> ContextKey:
        return self.record.key

    def take(self, found: ThreadRows, after: int | None) -> None:
        """Take in what was stored since `after`, or (None) the newest."""
        if found.context.settings != self.record.settings:
            self.settings = decode_settings(found.context.settings)
        self.record = found.context
        for summary in found.summaries:
            self.summaries[summary.turn_id] = summary
        if frozenset(found.pins) != self.pins:
            self.pins = frozenset(found.pins)
            self.pinned.clear()
        if after is not None:
            self.thread.newer(self._events(row for row in found.rows if row.order > self.thread.newest))
        elif not self.thread.newest:
            self.older(found.rows, reaches=not found.more)

    def older(self, rows: Sequence[EventRow], *, reaches: bool) -> None:
        """Take in what came just before."""
        self.thread.older(self._events(rows), reaches=reaches)

    def unload(self) -> None:
        """Forget the events, which are read again from the newest back."""
        self.thread = Thread()
        self.size = 0

    def _events(self, rows: Iterable[EventRow]) -> list[tuple[int, DurableEvent]]:
        events: list[tuple[int, DurableEvent]] = []
        for row in rows:
            self.size += len(row.body) + _ROW_BYTES
            events.append((row.order, decode_durable(row.body)))
        return events


class ActiveContexts:
    """Keeps the contexts used last, `limit` bytes of events at most. What is kept is never stale: each look reads what
    was stored since, and nothing else, from the store."""

    def __init__(self, store: ContextStore, limit: int = 64 * 1024 * 1024) -> None:
        self._store = store
        self._limit = limit
        self._size = 0
        self._contexts: OrderedDict[ContextKey, ActiveContext] = OrderedDict()

    def __len__(self) -> int:
        return len(self._contexts)

    def forget(self, key: ContextKey) -> None:
        """The context was deleted, or others need the room."""
        active = self._contexts.pop(key, None)
        if active is not None:
            self._size -= active.counted

    async def get(self, key: ContextKey) -> ActiveContext:
        """The context as of now. Raises NotFound."""
        while True:
            known = self._contexts.get(key)
            after = (known.thread.newest or None) if known is not None else None
            rows = await patiently(lambda: self._store.thread(key, after, _PAGE))  # noqa: B023 - awaited within
            if rows is None:
                self.forget(key)
                raise NotFound(key.id)
            if known is None or known.record.born != rows.context.born:
                self.forget(key)
                if after is not None:
                    continue  # what was read goes on from another life of the context
                known = ActiveContext(rows.context)
            known.take(rows, after)
            self._keep(known)
            if after is None or not rows.more:
                return known

    async def load_older(self, active: ActiveContext) -> None:
        """Another page of what came before."""
        thread, before = active.thread, active.thread.oldest
        rows, more = await patiently(lambda: self._store.older(active.key, before, _PAGE))
        if active.thread is thread and thread.oldest == before:
            active.older(rows, reaches=not more)

    async def load_pinned(self, active: ActiveContext) -> list[Node]:
        """The turns of the pinned messages, oldest first; those that have not ended are left out."""
        pins = active.pins
        nodes: dict[str, Node] = {}
        for pin in pins:
            place = pin.turn_id or pin.id
            node = active.pinned.get(place) or await self._node(active, pin)
            if node is not None:
                nodes[place] = node
        if active.pins == pins:  # others may have been set meanwhile
            active.pinned = nodes
        return sorted(nodes.values(), key=lambda node: node.place)

    async def _node(self, active: ActiveContext, pin: Pin) -> Node | None:
        key, turn_id = active.key, pin.turn_id
        thread = Thread()
        if turn_id is None:
            row = await patiently(lambda: self._store.find_event(key, pin.id))
            rows = [row] if row is not None else []
        else:
            turn = await patiently(lambda: self._store.load_turn(key, turn_id))
            rows = list(turn.events) if turn is not None else []
        thread.older([(row.order, decode_durable(row.body)) for row in rows], reaches=True)
        return thread.last

    def _keep(self, active: ActiveContext) -> None:
        self.forget(active.key)
        self._contexts[active.key] = active
        active.counted = active.size
        self._size += active.counted
        while self._size > self._limit and len(self._contexts) > 1:
            self.forget(next(iter(self._contexts)))
