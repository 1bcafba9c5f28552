"""Finds what nobody looks after: turns whose runner is gone, events that no log has (docs/design.md, Turns)."""

from __future__ import annotations

import asyncio
import time

import structlog

from gateway.epochs import Epochs
from gateway.turns import Turns
from stores.ports import ContextStore, Heartbeats, NotFound, StoreError, Unavailable

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

    async def beat(self) -> None:
        """Say that this instance lives, until cancelled."""
        while True:
            try:
                await self._heartbeats.beat(self._turns.instance, HEARTBEAT_TTL)
            except Unavailable:
                _log.warning("the heartbeat was not taken", exc_info=True)
            await asyncio.sleep(HEARTBEAT_TTL / 5)

    async def run(self) -> None:
        """Look around until cancelled."""
        while True:
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
                await self._turns.take(turn)
        for key in await self._store.stray_contexts(time.time() - _STRAY_AFTER, _AT_ONCE):
            for row, owned in await self._store.unsequenced(key):
                if not owned:
                    try:
                        await self._epochs.place(key, row.id)
                    except NotFound:
                        break
                    except StoreError as error:
                        _log.warning("a stray event was not appended", reason=str(error))
                        break
