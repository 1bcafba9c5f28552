"""The conversations that are alive: as models are given them, and only ever added to."""

from __future__ import annotations

from collections import OrderedDict

from gateway.active_context import UNSHARED, ActiveContext
from gateway.core.stored_turn import StoredTurn
from gateway.core.thread import Node, Thread
from gateway.patience import patiently
from protocol.codec import decode_durable
from stores.ports import ContextStore, NotFound, StoreError, ThreadCache
from stores.records import ContextKey, Pin, ThreadRows

__all__ = ["ActiveContexts"]

_PAGE = 200


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
            if before == UNSHARED or not await self._cache.extend(key, born, rows, before, newest):
                await self._cache.forget(key)
        except StoreError:
            return  # what they have is old, and they see it

    async def load_older(self, active: ActiveContext) -> None:
        """Another page of what came before; where the events were forgotten meanwhile, the newest again."""
        thread, before = active.thread, active.thread.oldest
        if not thread.newest:
            newest = await patiently(lambda: self._store.thread(active.key, None, _PAGE))
            if newest is None or newest.context.born != active.record.born:
                raise NotFound(active.key.id)
            if active.thread is thread:
                active.take(newest, None)
            return
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
