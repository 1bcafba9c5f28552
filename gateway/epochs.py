"""Finds a context's log, or begins it anew (docs/design.md, Epoch)."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from protocol.codec import decode_durable
from protocol.ids import new_id
from stores.ports import ContextStore, EpochOver, EventLog, NotFound, StoreError
from stores.records import ContextKey, EventRow, LogBatch, LogEvent, NewEvent

__all__ = ["Epochs", "Placed", "log_event"]

_REMEMBERED = 100_000


class Placed:
    """Where an event came to stand; `seq` is None where the log was away."""

    __slots__ = ("epoch", "seq")

    def __init__(self, epoch: int, seq: int | None) -> None:
        self.epoch = epoch
        self.seq = seq


def log_event(row: EventRow | NewEvent) -> LogEvent:
    """A stored event on its way into the log."""
    return LogEvent(event=decode_durable(row.body), body=row.body, id=row.id)


class Epochs:
    """Which life of its log each context is in, as far as this instance knows; `note` is told of every seq given."""

    def __init__(self, store: ContextStore, log: EventLog, note: Callable[[ContextKey, int, dict[str, int]], None]):
        self._store = store
        self._log = log
        self._note = note
        self._known: OrderedDict[ContextKey, int] = OrderedDict()
        # A lock lives as long as somebody holds or awaits it.
        self._joining: WeakValueDictionary[ContextKey, asyncio.Lock] = WeakValueDictionary()
        self.begun = 0

    def forget(self, key: ContextKey) -> None:
        self._known.pop(key, None)

    async def current(self, key: ContextKey) -> int:
        """The epoch of the context's log, begun anew where there is none. Raises NotFound, Unavailable."""
        known = await self.known(key)
        return known if known is not None else await self.join(key)

    async def known(self, key: ContextKey) -> int | None:
        """The epoch of the context's log, if this instance has had to do with it. Raises Unavailable."""
        epoch = await self.seen(key)
        return epoch if epoch == self._known.get(key) else None

    async def seen(self, key: ContextKey) -> int | None:
        """The epoch of the log that stands, whether or not it is over. The log alone is asked, so that one that is away
        is met before anything is stored. Raises Unavailable."""
        head = await self._log.head(key)
        return head.epoch if head is not None else None

    async def standing(self, key: ContextKey) -> int:
        """The epoch of the log that stands, for who only reads it: should its epoch be over, a publication of the next
        one tells readers. Where none stands, as `current`."""
        head = await self._log.head(key)
        return head.epoch if head is not None else await self.join(key)

    async def join(self, key: ContextKey) -> int:
        """As `current`, whatever was known before."""
        async with self._joining.setdefault(key, asyncio.Lock()):
            epoch = await self._join(key)
        self._learn(key, epoch)
        return epoch

    def _learn(self, key: ContextKey, epoch: int) -> None:
        self._known[key] = epoch
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _join(self, key: ContextKey) -> int:
        while True:
            context = await self._store.get_context(key)
            if context is None:
                raise NotFound(key.id)
            # Later than the store: a log that somebody has begun since is not begun again.
            head = await self._log.head(key)
            if head is not None and head.epoch == context.epoch:
                return head.epoch
            raised = await self._store.raise_epoch(key, context.epoch)
            if raised is None or not await self._log.begin(key, *raised):
                # Somebody else begins one: give it a moment, each a different one.
                await asyncio.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - spreads, protects nothing
                continue
            self.begun += 1
            rows = [row for row, owned in await self._store.unsequenced(key) if not owned]
            if rows:
                await self._append(key, raised[0], rows)
            return raised[0]

    async def _append(
        self, key: ContextKey, epoch: int, rows: Sequence[EventRow | NewEvent]
    ) -> dict[str, int] | StoreError:
        batch = LogBatch(key=key, epoch=epoch, writer=new_id("w_"), events=[log_event(row) for row in rows])
        (answer,) = await self._log.append([batch])
        if isinstance(answer, dict):
            self._note(key, epoch, answer)
        return answer

    async def place(
        self, key: ContextKey, event: NewEvent, seen: int | None = None, stored_in: int | None = None
    ) -> Placed:
        """Append a stored event that no runner owns. An event that has its seq already keeps it.

        The epoch is learnt first, then which rows lack a seq, so that no event gets two (docs/design.md, Writers). An
        event needs no look that was stored after the epoch of the log was `seen`, and `stored_in` a context whose row
        had the same: no earlier log can have it. Raises NotFound where the context is gone, and Unavailable.
        """
        if seen is not None and seen == stored_in:
            self._learn(key, seen)
            answer = await self._append(key, seen, [event])
            if isinstance(answer, dict):
                return Placed(seen, answer[event.id])
            if not isinstance(answer, EpochOver):
                raise answer
        return await self.place_row(key, event.id)

    async def place_row(self, key: ContextKey, event_id: str) -> Placed:
        """As `place`, of an event that is known by its id only."""
        while True:
            epoch = await self.current(key)
            rows = await self._store.unsequenced(key)
            row = next((row for row, _ in rows if row.id == event_id), None)
            if row is None:
                return Placed(epoch, None)
            answer = await self._append(key, epoch, [row])
            if isinstance(answer, dict):
                return Placed(epoch, answer[event_id])
            if not isinstance(answer, EpochOver):
                raise answer
            self.forget(key)
