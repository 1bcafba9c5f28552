"""Finds what nobody looks after: turns whose runner is gone, events that no log has (docs/design.md, Turns)."""

from __future__ import annotations

import asyncio

import structlog

from gateway.epochs import Epochs
from gateway.turns import Turns
from stores.ports import ContextStore, Heartbeats, NotFound, StoreError, Unavailable
from stores.records import ContextKey

__all__ = ["HEARTBEAT_TTL", "Recovery"]

_log = structlog.get_logger(__name__)

HEARTBEAT_TTL = 5.0
_EVERY = 1.0
_STRAY_AFTER = 2.0
_AT_ONCE = 200


class Recovery:
    """Beats for this instance, and looks around each second."""

    def __init__(self, store: ContextStore, heartbeats: Heartbeats, epochs: Epochs, turns: Turns) -> None:
        self._store = store
        self._heartbeats = heartbeats
        self._epochs = epochs
        self._turns = turns
        self._retired = False
        self._strays: dict[ContextKey, float] = {}  # when each was first seen

    async def beat(self) -> None:
        """Say that this instance lives, until cancelled or `retire`."""
        while not self._retired:
            try:
                await self._heartbeats.beat(self._turns.instance, HEARTBEAT_TTL)
            except Unavailable:
                _log.warning("the heartbeat was not taken", exc_info=True)
            await asyncio.sleep(HEARTBEAT_TTL / 5)

    async def retire(self) -> None:
        """Let the others know at once that this instance runs nothing any more."""
        self._retired = True
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
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Take over what is nobody's, once."""
        alive = await self._heartbeats.alive()
        if alive is not None:
            for turn in await self._store.turns_to_run(alive, _AT_ONCE):
                self._turns.take(turn)
        for key in self._overdue(await self._store.stray_contexts(_AT_ONCE)):
            await self._place_strays(key)

    def _overdue(self, found: list[ContextKey]) -> list[ContextKey]:
        """Those that have been stray for a while by this instance's clock alone: whoever stored the events may have
        another one, and is most likely about to append them."""
        now = asyncio.get_running_loop().time()
        self._strays = {key: self._strays.get(key, now) for key in found}
        return [key for key, since in self._strays.items() if now - since >= _STRAY_AFTER]

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
