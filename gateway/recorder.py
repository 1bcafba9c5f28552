"""Notes in the store which seq the log gave to what: soon, in few transactions (docs/design.md, Store first)."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

import structlog

from stores.ports import ContextStore, EventLog, Unavailable
from stores.records import ContextKey, Recorded

__all__ = ["Recorder"]

_log = structlog.get_logger(__name__)

# Somebody else may have recorded it, and knows what came of it.
_NOTHING = Recorded(done=frozenset(), waiting=True)


class _Flush(asyncio.Lock):
    """Held while a context's seqs are recorded; `last` is what came of it."""

    last: Recorded | None = _NOTHING


class Recorder:
    """`note` is called for every append; what was noted is recorded within `delay` seconds, or by `flush`."""

    def __init__(self, store: ContextStore, log: EventLog, delay: float = 0.3) -> None:
        self._store = store
        self._event_log = log
        self._delay = delay
        self._noted: dict[ContextKey, tuple[int, int]] = {}
        # One lives as long as somebody holds or awaits it.
        self._flushes: WeakValueDictionary[ContextKey, _Flush] = WeakValueDictionary()
        self._wake = asyncio.Event()

    def note(self, key: ContextKey, epoch: int, seqs: dict[str, int]) -> None:
        if not seqs:
            return
        top = max(seqs.values())
        known = self._noted.get(key)
        if known is None or known < (epoch, top):
            self._noted[key] = (epoch, top)
            self._wake.set()

    async def flush(self, key: ContextKey) -> Recorded | None:
        """Record what was noted of the context; None where its epoch is over, so that nothing was recorded. What is
        being recorded already is waited for, and answered with what came of it."""
        flush = self._flushes.setdefault(key, _Flush())
        waited = flush.locked()
        async with flush:
            noted = self._noted.pop(key, None)
            if noted is None:
                return flush.last if waited else _NOTHING
            try:
                flush.last = await self._record(key, *noted)
            except Unavailable:
                self.note(key, noted[0], {"": noted[1]})
                raise
            return flush.last

    async def _record(self, key: ContextKey, epoch: int, top: int) -> Recorded | None:
        # Everything of this log up to `top` goes together, also what another instance appended.
        seqs = await self._event_log.ids(key, epoch, top)
        if seqs is None:
            return None
        if not seqs:
            return _NOTHING
        recorded = await self._store.record(key, epoch, seqs)
        if recorded is not None:
            await self._event_log.recorded(key, epoch, top)
        return recorded

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
        except Exception:  # noqa: BLE001 - what one context does must not end the instance; its turn's runner meets it too
            _log.exception("seqs could not be recorded")
