"""Takes what running turns want to say to the log: all that came up in one tick leaves as one append."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from stores.ports import EventLog, StoreError, Unavailable
from stores.records import LogBatch

__all__ = ["Publisher", "Source"]

_log = structlog.get_logger(__name__)
_RETRY = 0.2


class Source(Protocol):
    """Whoever has events for the log."""

    def take(self) -> LogBatch | None:
        """The next batch; the same one again until it was `appended` or `refused`."""
        ...

    def appended(self, batch: LogBatch, seqs: dict[str, int]) -> bool:
        """Whether there is more."""
        ...

    def refused(self, batch: LogBatch, reason: StoreError) -> None:
        """The log will never take this batch."""
        ...


class Publisher:
    """`delay` (seconds) is how long events are gathered; 0 is one tick of the event loop."""

    def __init__(self, log: EventLog, delay: float = 0.0) -> None:
        self._event_log = log
        self._delay = delay
        self._ready: dict[Source, None] = {}
        self._wake = asyncio.Event()

    def mark(self, source: Source) -> None:
        """The source has something to take."""
        self._ready[source] = None
        self._wake.set()

    async def run(self) -> None:
        """Append until cancelled."""
        while True:
            await self._wake.wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            self._wake.clear()
            sources = list(self._ready)
            self._ready.clear()
            pairs = [(source, batch) for source in sources if (batch := source.take()) is not None]
            if pairs and await self._append(pairs):
                # The log is away: what was not taken is offered again, and new events wait with it.
                await asyncio.sleep(_RETRY)

    async def _append(self, pairs: list[tuple[Source, LogBatch]]) -> bool:
        try:
            answers = await self._event_log.append([batch for _, batch in pairs])
        except Unavailable as error:
            answers = [error] * len(pairs)
        away = False
        for (source, batch), answer in zip(pairs, answers, strict=True):
            if isinstance(answer, dict):
                if source.appended(batch, answer):
                    self.mark(source)
            elif isinstance(answer, Unavailable):
                away = True
                self.mark(source)
            else:
                source.refused(batch, answer)
        if away:
            _log.warning("the log does not take events; they are kept")
        return away
