"""What is stored of a turn, as its runner knows it without asking the store again."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence

from stores.records import CancelRequest, Claimed, EventRow, NewEvent, Written

__all__ = ["StoredTurn"]


class StoredTurn:
    """`newest` is the highest `order` in the turn's context that the store has told of. Orders go up by one, whatever
    is stored; so whoever has everything up to some order can tell whether all that came since is the turn's own."""

    def __init__(self, claimed: Claimed) -> None:
        self.newest = claimed.newest
        self.born = claimed.born
        self._rows: list[EventRow] = []
        self._orders: list[int] = []
        self.read(claimed.rows.events, claimed.rows.cancels)

    @property
    def rows(self) -> Sequence[EventRow]:
        """The turn's events that it knows, in the order of storing."""
        return self._rows

    def read(self, rows: Iterable[EventRow], cancels: Iterable[CancelRequest]) -> None:
        """The store answered with these, of this turn."""
        for row in rows:
            if self._take(row.order):
                insort(self._rows, row, key=_order)
        for cancel in cancels:
            self._take(cancel.order)

    def wrote(self, turn_id: str, events: Sequence[NewEvent], written: Written) -> None:
        """The store took these, but for what it passed over."""
        fresh = [event for event in events if event.id not in written.passed]
        for order, event in enumerate(fresh, written.newest - len(fresh) + 1):
            self.read([EventRow(id=event.id, type=event.type, body=event.body, order=order, turn_id=turn_id)], ())
        self.newest = max(self.newest, written.newest)

    def since(self, order: int) -> list[EventRow] | None:
        """The events above `order`; None where something else was stored since, which the runner does not know."""
        known = len(self._orders) - bisect_right(self._orders, order)
        if known != self.newest - order:
            return None
        return self._rows[bisect_right(self._rows, order, key=_order) :]

    def _take(self, order: int) -> bool:
        """Whether it was not known."""
        place = bisect_right(self._orders, order)
        if place and self._orders[place - 1] == order:
            return False
        self._orders.insert(place, order)
        self.newest = max(self.newest, order)
        return True


def _order(row: EventRow) -> int:
    return row.order
