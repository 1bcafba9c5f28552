"""RateLimits of one process."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["MemoryRateLimits", "check_rate"]

# A caller that waits as long as it was told to must not be refused for the last bit of a float.
_ROUNDING = 1e-6


def check_rate(n: float, per_second: float, burst: float) -> None:
    """Raises ValueError where these are no rate, or nothing that can be taken."""
    if not (0 < per_second < math.inf and 0 < burst < math.inf and 0 <= n < math.inf):
        raise ValueError("a rate and a burst are greater than 0, and nothing less than 0 is taken")


class MemoryRateLimits:
    """RateLimits of one process. It remembers `max_names` at most: beyond, the one that was quiet longest is forgotten,
    and has its burst again when it returns."""

    def __init__(self, *, max_names: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_names = max_names
        self._clock = clock
        # The tokens of each, and when it had them; quietest first, and none that are known to be full.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    async def take(self, name: str, n: float, per_second: float, burst: float) -> float:
        check_rate(n, per_second, burst)
        now = self._clock()
        tokens, updated = self._buckets.pop(name, (burst, now))
        # A clock that goes backwards fills nothing and freezes nothing: the bucket goes on from the earlier time.
        tokens = min(burst, tokens + max(0.0, now - updated) * per_second)
        wait = 0.0
        missing = n - tokens
        if missing > _ROUNDING:
            wait = missing / per_second
        else:
            tokens = max(0.0, -missing)
        if tokens < burst:
            self._buckets[name] = (tokens, now)
            if len(self._buckets) > self._max_names:
                self._buckets.popitem(last=False)
        return wait
