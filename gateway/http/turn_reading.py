"""Follows one turn, from its beginning or a cursor to its end."""

from __future__ import annotations

from gateway.http.narrowing import Narrowing
from gateway.http.streams import Following
from gateway.http.told import Told
from gateway.turn_places import Place, TurnPlaces
from protocol.frames import Snapshot, TurnEnd
from protocol.ids import Cursor

__all__ = ["TurnReading"]


class TurnReading:
    """What `following` is told, as far as it is the turn's. `after` is where its reader goes on."""

    def __init__(self, following: Following, places: TurnPlaces, place: Place, after: Cursor | None) -> None:
        self._following = following
        self._places = places
        self._place = place
        self._narrowing = Narrowing(place.turn_id, place.message_id, after)
        # Of what its reader knows nothing is said again, so that the turn's end is among it has to be found out.
        self._known = after if after is not None and after.epoch == place.before.epoch else None
        self._lost = False

    @property
    def over(self) -> bool:
        return self._narrowing.over

    @property
    def turn_end(self) -> TurnEnd | None:
        """The turn's end, once it was read."""
        return self._narrowing.end

    async def read(self) -> list[Told] | None:
        """What came since; waits for it. Empty where it is time for a sign of life, None when the turn is over or
        nothing more will come. Raises NotFound, Unavailable."""
        if self._known is not None:
            await self._skip(self._known)
        while not self.over:
            told = await self._following.read()
            if not told:
                return told
            mine = await self._narrow(told)
            if mine:
                return mine
        return None

    async def _skip(self, known: Cursor) -> None:
        self._known = None
        if known.seq > self._place.before.seq:
            # None where the epoch ended meanwhile: then a snapshot comes, which says how it stands.
            events = await self._places.events(self._place, known.epoch, known.seq)
            self._narrowing.told_before(events or ())

    async def _narrow(self, told: list[Told]) -> list[Told]:
        mine: list[Told] = []
        for one in told:
            if isinstance(one.frame, Snapshot):
                mine += await self._snapshot(one, one.frame)
            elif not self._lost and self._narrowing.event(one):
                mine.append(one)
        return mine

    async def _snapshot(self, one: Told, frame: Snapshot) -> list[Told]:
        events = None
        if self._narrowing.lacks(frame):
            events = await self._places.events(self._place, int(frame.epoch), frame.seq)
            # Its epoch ended meanwhile: the snapshot of the next one is on its way, and until then nothing counts.
            self._lost = events is None
            if self._lost:
                return []
        self._lost = False
        return self._narrowing.snapshot(one, events)
