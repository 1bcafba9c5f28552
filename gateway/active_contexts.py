"""The conversations that are alive: as models are given them, and only ever added to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gateway.context_settings import ContextSettings, decode_settings
from gateway.core.stored_turn import StoredTurn
from gateway.core.thread import Node, Thread
from gateway.core.tokens import Calibration
from gateway.core.window import Cut
from gateway.patience import patiently
from protocol.codec import decode_durable
from protocol.frames import DurableEvent, Message
from stores.ports import ContextStore, NotFound, StoreError, ThreadCache
from stores.records import ContextKey, ContextRecord, EventRow, Pin, Summary, ThreadRows

__all__ = ["ActiveContext", "ActiveContexts"]

_PAGE = 200
_UNSHARED = -1  # an order that nothing has
_ROW_BYTES = 900  # what an event takes in memory besides its text


class ActiveContext:
    """A context as far as it is loaded: all that is stored up to the order `whole`, from the newest back. `cuts` and
    `calibrations` are by the name of the model."""

    def __init__(self, record: ContextRecord) -> None:
        self.record = record
        self.settings: ContextSettings = decode_settings(record.settings)
        self.thread = Thread()
        self.whole = 0
        self.unshared: list[EventRow] = []  # what runners added since the order `shared`
        self.shared = _UNSHARED
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

    def take(self, found: ThreadRows, after: int | None) -> bool:
        """Take in what was stored since `after`, or (None) the newest; False where the newest were there already."""
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
        elif self.thread.newest:
            return False  # somebody else has loaded it meanwhile
        else:
            self.older(found.rows, reaches=not found.more)
        self.unshared, self.shared = [], _UNSHARED
        orders = [row.order for row in found.rows] + [summary.order for summary in found.summaries]
        self.whole = max([self.whole, *orders])
        return True

    def learn(self, before: ActiveContext) -> None:
        """What was found out about the same context, besides what is stored of it."""
        self.cuts, self.calibrations = before.cuts, before.calibrations
        self.failures, self.turns_to_wait = before.failures, before.turns_to_wait

    def fill(self, stored: StoredTurn) -> bool:
        """Take in what a runner knows; False where that is not all that lacks."""
        rows = stored.since(self.whole) if self.thread.newest and self.record.born == stored.born else None
        if rows is None:
            return False
        events = [(row.order, decode_durable(row.body)) for row in rows]
        if any(isinstance(event, Message) and event.role == "system" for _, event in events):
            return False  # it is pinned, and of pins the store tells
        self.size += sum(len(row.body) + _ROW_BYTES for row in rows)
        self.thread.newer(events)
        self.unshared += rows
        self.whole = stored.newest
        return True

    def reached_by(self, rows: ThreadRows, whole: int) -> bool:
        """Whether the newest part, which is whole up to that order, goes on from what is loaded, without a gap."""
        if rows.context.born != self.record.born or whole < self.whole or not rows.rows:
            return False
        return rows.rows[0].order <= self.thread.newest

    def older(self, rows: Sequence[EventRow], *, reaches: bool) -> None:
        """Take in what came just before."""
        self.thread.older(self._events(rows), reaches=reaches)

    def unload(self) -> None:
        """Forget the events, which are read again from the newest back."""
        self.thread = Thread()
        self.size = self.whole = 0
        self.unshared, self.shared = [], _UNSHARED

    def _events(self, rows: Iterable[EventRow]) -> list[tuple[int, DurableEvent]]:
        events: list[tuple[int, DurableEvent]] = []
        for row in rows:
            self.size += len(row.body) + _ROW_BYTES
            events.append((row.order, decode_durable(row.body)))
        return events


class ActiveContexts:
    """Keeps the contexts used last, `limit` bytes of events at most. What is kept is never stale: a look reads from the
    store what was stored since, and nothing else; where a runner knows what that is, nothing at all. What one instance
    has loaded the others find in `cache`, and see by the orders that the store gave whether it is all there is."""

    def __init__(self, store: ContextStore, limit: int = 64 * 1024 * 1024, cache: ThreadCache | None = None) -> None:
        self._store = store
        self._limit = limit
        self._cache = cache
        self._size = 0
        self._contexts: OrderedDict[ContextKey, ActiveContext] = OrderedDict()

    def __len__(self) -> int:
        return len(self._contexts)

    async def deleted(self, key: ContextKey) -> None:
        """The context is gone. Raises Unavailable where others may still find what it was."""
        self.forget(key)
        if self._cache is not None:
            await self._cache.forget(key)

    def forget(self, key: ContextKey) -> None:
        """The context was deleted, or others need the room."""
        active = self._contexts.pop(key, None)
        if active is not None:
            self._size -= active.counted

    async def get(self, key: ContextKey, stored: StoredTurn | None = None) -> ActiveContext:
        """The context as of now; or as of what the runner of one of its turns knows is `stored`. Raises NotFound."""
        if stored is not None:
            known = self._contexts.get(key)
            if (known is not None and known.fill(stored)) or await self._load(key, stored):
                known = self._contexts[key]
                self._keep(known)
                return known
        # What is read from the newest back can be left to the others, what goes on from what was read cannot. What was
        # read is not unloaded for that: somebody may be at work with it.
        anew = stored is not None and self._cache is not None
        while True:
            known = self._contexts.get(key)
            after: int | None = (known.thread.newest or None) if known is not None and not anew else None
            rows = await patiently(lambda: self._store.thread(key, after, _PAGE))  # noqa: B023 - awaited within
            if rows is None:
                self.forget(key)
                raise NotFound(key.id)
            if known is None or anew or known.record.born != rows.context.born:
                self.forget(key)
                if after is not None:
                    continue  # what was read goes on from another life of the context
                before, known = known, ActiveContext(rows.context)
                if before is not None and before.record.born == known.record.born:
                    known.learn(before)
            taken = known.take(rows, after)
            self._keep(known)
            if taken and (after is None or not rows.more):
                await self._share(known, rows if after is None else None)
                return known

    async def _load(self, key: ContextKey, stored: StoredTurn) -> bool:
        """Whether what the others left, and what the runner knows, is all there is."""
        if self._cache is None:
            return False
        try:
            found = await self._cache.load(key)
        except StoreError:
            return False
        if found is None or found[0].context.born != stored.born:
            return False
        rows, whole = found
        known = self._contexts.get(key)
        if known is not None and known.reached_by(rows, whole):
            loaded = known
            loaded.take(rows, loaded.thread.newest)
        else:
            loaded = ActiveContext(rows.context)
            loaded.take(rows, None)
            if known is not None:
                loaded.learn(known)
        loaded.whole = loaded.shared = whole
        loaded.unshared = []
        if not loaded.fill(stored):
            return False
        self._keep(loaded)
        return True

    async def _share(self, active: ActiveContext, rows: ThreadRows | None) -> None:
        """Leave to other instances what was read; None: what was read goes on from what they may have."""
        active.unshared, active.shared = [], active.whole
        if self._cache is None:
            return
        try:
            if rows is not None:
                await self._cache.save(active.key, rows, active.whole)
            else:
                await self._cache.forget(active.key)
        except StoreError:
            return  # they read the store

    async def turn_over(self, key: ContextKey, stored: StoredTurn) -> None:
        """A turn has ended: leave to other instances what it added."""
        active = self._contexts.get(key)
        if active is None or not active.fill(stored):
            return
        self._keep(active)
        rows, before = active.unshared, active.shared
        active.unshared, active.shared = [], active.whole
        if self._cache is None or not rows:
            return
        try:
            born, newest = active.record.born, active.shared
            if before == _UNSHARED or not await self._cache.extend(key, born, rows, before, newest):
                await self._cache.forget(key)
        except StoreError:
            return  # what they have is old, and they see it

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
