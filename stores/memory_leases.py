"""Leases of one process."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MemoryLeases"]


class MemoryLeases:
    """Implements Leases. What it holds is bounded by who holds: a name without places is forgotten when it is met."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When each holder's time is over, by name.
        self._held: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def acquire(self, name: str, holder: str, limit: int, ttl: float) -> bool:
        now = self._clock()
        held = {other: end for other, end in self._held.get(name, {}).items() if end > now}
        if holder not in held and len(held) >= limit:
            return False
        self._held[name] = {**held, holder: now + ttl}
        return True

    async def renew(self, name: str, holder: str, ttl: float) -> None:
        self._held.setdefault(name, {})[holder] = self._clock() + ttl

    async def release(self, name: str, holder: str) -> None:
        held = self._held.get(name, {})
        held.pop(holder, None)
        if not held:
            self._held.pop(name, None)
