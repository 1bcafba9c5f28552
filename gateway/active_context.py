"""One conversation that is alive: as models are given it, and only ever added to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.context_settings import ContextSettings, decode_settings
from gateway.core.stored_turn import StoredTurn
from gateway.core.thread import Node, Thread
from gateway.core.tokens import Calibration
from gateway.core.window import Cut
from protocol.codec import decode_durable
from protocol.frames import DurableEvent, Message
from stores.records import ContextKey, ContextRecord, EventRow, Pin, Summary, ThreadRows

__all__ = ["UNSHARED", "ActiveContext"]

UNSHARED = -1
"""An order that nothing has."""

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
        self.shared = UNSHARED
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
        self.unshared, self.shared = [], UNSHARED
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
        self.unshared, self.shared = [], UNSHARED

    def _events(self, rows: Iterable[EventRow]) -> list[tuple[int, DurableEvent]]:
        events: list[tuple[int, DurableEvent]] = []
        for row in rows:
            self.size += len(row.body) + _ROW_BYTES
            events.append((row.order, decode_durable(row.body)))
        return events
