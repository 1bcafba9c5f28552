"""Finds what nobody looks after: turns whose runner is gone, events that no log has (docs/design.md, Turns)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

import structlog

from gateway.epochs import Epochs
from gateway.turns import Turns
from stores.ports import ContextStore, Heartbeats, NotFound, StoreError, Unavailable
from stores.records import ContextKey, TurnState

__all__ = ["HEARTBEAT_TTL", "Recovery"]

_log = structlog.get_logger(__name__)

HEARTBEAT_TTL = 5.0
_EVERY = 1.0
_PATIENCE = 2.0
_T = TypeVar("_T")
_AT_ONCE = 200


class _Sightings(Generic[_T]):
    """What was seen at each look for a while, by this instance's clock alone: those of others may be wrong."""

    def __init__(self) -> None:
        self._since: dict[_T, float] = {}

    def overdue(self, seen: Iterable[_T]) -> set[_T]:
        now = asyncio.get_running_loop().time()
        self._since = {each: self._since.get(each, now) for each in seen}
        return {each for each, since in self._since.items() if now - since >= _PATIENCE}


class Recovery:
    """Beats for this instance, and looks around each second."""

    def __init__(self, store: ContextStore, heartbeats: Heartbeats, epochs: Epochs, turns: Turns) -> None:
        self._store = store
        self._heartbeats = heartbeats
        self._epochs = epochs
        self._turns = turns
        self._retired = False
        self._beating = asyncio.Lock()
        self._queued = _Sightings[tuple[ContextKey, str]]()
        self._strays = _Sightings[ContextKey]()

    async def beat(self) -> None:
        """Say that this instance lives, until cancelled or `retire`."""
        while not self._retired:
            async with self._beating:
                if not self._retired:
                    await self._beat()
            await asyncio.sleep(HEARTBEAT_TTL / 5)

    async def _beat(self) -> None:
        try:
            await self._heartbeats.beat(self._turns.instance, HEARTBEAT_TTL)
        except Unavailable:
            _log.warning("the heartbeat was not taken", exc_info=True)

    async def retire(self) -> None:
        """Let the others know at once that this instance runs nothing any more."""
        self._retired = True
        async with self._beating:
            try:
                await self._heartbeats.stop(self._turns.instance)
            except Unavailable as error:
                _log.warning("the end of the heartbeat was not taken; it will be missed", reason=str(error))

    async def run(self) -> None:
        """Look around until cancelled."""
        while not self._retired:
            try:
                await self.look()
            except Unavailable as error:
                _log.warning("recovery could not look around", reason=str(error))
            except Exception:  # noqa: BLE001 - what one row or one store does must not end all turns of the instance
                _log.exception("recovery failed, and looks again")
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Take over what is nobody's, once."""
        turns = await self._store.turns_to_run(await self._heartbeats.alive(), _AT_ONCE)
        # One that has never begun is most likely about to, where it came in and its context is at hand.
        fresh = {(turn.key, turn.id) for turn in turns if turn.state is TurnState.QUEUED}
        waiting = fresh - self._queued.overdue(fresh)
        for turn in turns:
            if (turn.key, turn.id) not in waiting:
                self._turns.take(turn)
        # As most likely whoever stored the events is about to append them.
        for key in self._strays.overdue(await self._store.stray_contexts(_AT_ONCE)):
            await self._place_strays(key)

    async def _place_strays(self, key: ContextKey) -> None:
        for row, owned in await self._store.unsequenced(key):
            if not owned:
                try:
                    await self._epochs.place_row(key, row.id)
                except NotFound:
                    return
                except StoreError as error:
                    _log.warning("a stray event was not appended", reason=str(error))
                    return
