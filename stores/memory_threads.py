"""ThreadCache of one process: for several gateways in one, and for tests. A gateway alone has no use for it, since it
keeps its conversations itself, decoded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from stores.records import ContextKey, EventRow, ThreadRows

__all__ = ["MemoryThreadCache"]

_ROW_BYTES = 200  # what a row takes besides its body


class _Kept(Struct):
    rows: ThreadRows
    newest: int
    until: float
    size: int


class MemoryThreadCache:
    """Keeps what was used last, `total_bytes` together, and of each context the newest `max_bytes`; what does not fit
    with one row is not kept. It is forgotten `ttl` seconds after it was used last. Rows come back without `seq`."""

    def __init__(
        self,
        *,
        max_bytes: int = 512 << 10,
        total_bytes: int = 64 << 20,
        ttl: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._total_bytes = total_bytes
        self._ttl = ttl
        self._clock = clock
        self._kept: OrderedDict[ContextKey, _Kept] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def load(self, key: ContextKey) -> tuple[ThreadRows, int] | None:
        kept = self._live(key)
        if kept is None:
            return None
        kept.until = self._clock() + self._ttl
        self._kept.move_to_end(key)
        return kept.rows, kept.newest

    async def save(self, key: ContextKey, rows: ThreadRows, newest: int) -> None:
        self._keep(key, rows, newest)

    async def extend(self, key: ContextKey, born: int, rows: Sequence[EventRow], before: int, newest: int) -> bool:
        kept = self._live(key)
        if kept is None or kept.newest != before or kept.rows.context.born != born:
            return False
        found = kept.rows
        extended = ThreadRows(found.context, [*found.rows, *rows], found.summaries, found.pins, found.more)
        return self._keep(key, extended, newest)

    async def forget(self, key: ContextKey) -> None:
        self._drop(key)

    def _keep(self, key: ContextKey, rows: ThreadRows, newest: int) -> bool:
        """What fits; whether anything does."""
        self._drop(key)
        size = _weight(rows)
        newer: list[EventRow] = []
        for row in reversed(rows.rows):
            if size + len(row.body) + _ROW_BYTES > self._max_bytes:
                break
            size += len(row.body) + _ROW_BYTES
            newer.append(replace(row, seq=None) if row.seq is not None else row)
        if size > self._max_bytes or (rows.rows and not newer):
            return False
        more = rows.more or len(newer) < len(rows.rows)
        kept = ThreadRows(rows.context, newer[::-1], rows.summaries, rows.pins, more)
        self._kept[key] = _Kept(kept, newest, self._clock() + self._ttl, size)
        self._size += size
        while self._size > self._total_bytes:
            self._drop(next(iter(self._kept)))
        return key in self._kept

    def _live(self, key: ContextKey) -> _Kept | None:
        kept = self._kept.get(key)
        if kept is not None and kept.until <= self._clock():
            self._drop(key)
            return None
        return kept

    def _drop(self, key: ContextKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._size -= kept.size


def _weight(rows: ThreadRows) -> int:
    """Of what comes with the events, in bytes."""
    context = rows.context
    said = sum(len(summary.text) for summary in rows.summaries)
    return said + len(context.metadata or b"") + len(context.settings or b"")
