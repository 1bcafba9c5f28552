"""Notes in the store which seq the log gave to what: soon, in few transactions (docs/design.md, Store first)."""

from __future__ import annotations

import asyncio

import structlog

from stores.ports import ContextStore, EventLog, Unavailable
from stores.records import ContextKey

__all__ = ["Recorder"]

_log = structlog.get_logger(__name__)


class Recorder:
    """`note` is called for every append; what was noted is recorded within `delay` seconds, or by `flush`."""

    def __init__(self, store: ContextStore, log: EventLog, delay: float = 0.3) -> None:
        self._store = store
        self._event_log = log
        self._delay = delay
        self._noted: dict[ContextKey, tuple[int, int]] = {}
        self._wake = asyncio.Event()

    def note(self, key: ContextKey, epoch: int, seqs: dict[str, int]) -> None:
        if not seqs:
            return
        top = max(seqs.values())
        known = self._noted.get(key)
        if known is None or known < (epoch, top):
            self._noted[key] = (epoch, top)
            self._wake.set()

    async def flush(self, key: ContextKey) -> bool:
        """Record what was noted of the context; False where its epoch is over, so that nothing was recorded."""
        noted = self._noted.pop(key, None)
        if noted is None:
            return True
        try:
            return await self._record(key, *noted)
        except Unavailable:
            self.note(key, noted[0], {"": noted[1]})
            raise

    async def _record(self, key: ContextKey, epoch: int, top: int) -> bool:
        # Everything of this log up to `top` goes together, also what another instance appended.
        seqs = await self._event_log.ids(key, epoch, top)
        if seqs is None:
            return False
        if not seqs:
            return True
        if not await self._store.record(key, epoch, seqs):
            return False
        await self._event_log.recorded(key, epoch, top)
        return True

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._delay)
            self._wake.clear()
            await self.flush_all()

    async def flush_all(self) -> None:
        """Record all that was noted, contexts side by side so that the store can commit them together."""
        keys = list(self._noted)
        for start in range(0, len(keys), 256):
            await asyncio.gather(*(self._flush_quietly(key) for key in keys[start : start + 256]))

    async def _flush_quietly(self, key: ContextKey) -> None:
        try:
            await self.flush(key)
        except Unavailable:
            _log.warning("seqs were not recorded and will be again", exc_info=True)
