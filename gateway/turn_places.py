"""Where a turn stands in its context: its beginning, and all of its events."""

from __future__ import annotations

from msgspec import Struct

from gateway.conversations import Receipt
from gateway.epochs import Epochs
from protocol.codec import with_seq
from protocol.ids import Cursor
from stores.ports import ContextStore, EventLog, NotFound, Unavailable
from stores.records import ContextKey

__all__ = ["Place", "TurnPlaces"]


class Place(Struct, frozen=True):
    """`turn_id` None: the message is not answered. A reader that begins after `before` misses nothing of it."""

    key: ContextKey
    message_id: str
    turn_id: str | None
    before: Cursor


class TurnPlaces:
    """Raises NotFound where the context is gone, and Unavailable."""

    def __init__(self, store: ContextStore, log: EventLog, epochs: Epochs) -> None:
        self._store = store
        self._log = log
        self._epochs = epochs

    async def find(self, receipt: Receipt, message_id: str) -> Place:
        """Of a message that was acknowledged: the turn that it set off, or steers, from that turn's beginning."""
        key, turn_id = receipt.key, receipt.accepted.turn_id
        begins = not receipt.accepted.duplicate and turn_id in (None, message_id)
        if begins and receipt.epoch is not None and receipt.seq is not None:
            return Place(key, message_id, turn_id, Cursor(receipt.epoch, receipt.seq - 1))
        await self._epochs.current(key)
        # The log first: what has no seq in either was not said up to the fold.
        fold = await self._log.fold(key)
        if fold is None:
            raise Unavailable("the log went away")
        row = await self._store.find_event(key, message_id)
        if row is not None and row.turn_id not in (None, row.id):
            turn_id, row = row.turn_id, await self._store.find_event(key, row.turn_id)
        elif row is not None:
            turn_id = row.turn_id
        if row is None:
            raise NotFound(key.id)
        seq = row.seq or fold.ids.get(row.id)
        return Place(key, message_id, turn_id, Cursor(fold.epoch, fold.seq if seq is None else seq - 1))

    async def events(self, place: Place, epoch: int, seq: int) -> list[bytes] | None:
        """The durable events of the turn up to `seq`, in its order; None where that epoch is over."""
        ids = await self._log.ids(place.key, epoch, seq)
        if ids is None:
            return None
        if place.turn_id is None:
            row = await self._store.find_event(place.key, place.message_id)
            rows = [row] if row is not None else []
        else:
            turn = await self._store.load_turn(place.key, place.turn_id)
            rows = list(turn.events) if turn is not None else []
        placed = [(row.seq or ids.get(row.id, seq + 1), row) for row in rows]
        placed = sorted((pair for pair in placed if pair[0] <= seq), key=lambda pair: pair[0])
        return [with_seq(row.body, at) for at, row in placed]
