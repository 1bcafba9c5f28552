"""What one principal may do at a time: messages a minute, open sockets. Counted within this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.core.limits import TokenBucket

__all__ = ["Connections", "Throttle"]


class Throttle:
    """A rate for each principal: a minute's worth may come at once, then `per_minute` in the long run.

    At most `max_principals` are remembered; beyond, the one that was quiet longest is forgotten, which gives it a full
    bucket when it returns, as a minute of silence would have.
    """

    def __init__(
        self,
        per_minute: float,
        *,
        max_principals: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = per_minute
        self._max_principals = max_principals
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, owner: str, n: float = 1) -> float:
        """Count `n` for the principal: 0 where it may, else the seconds until it may, and nothing is counted."""
        bucket = self._buckets.get(owner)
        if bucket is None:
            bucket = self._buckets[owner] = TokenBucket(self._per_minute / 60, self._per_minute)
            if len(self._buckets) > self._max_principals:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(owner)
        return bucket.take(self._clock(), n)

    def __len__(self) -> int:
        return len(self._buckets)


class Connections:
    """How many sockets each principal has open; `limit` is the most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}

    def acquire(self, owner: str) -> bool:
        """Count one more socket; False, and nothing counted, at the limit."""
        count = self._open.get(owner, 0)
        if count >= self._limit:
            return False
        self._open[owner] = count + 1
        return True

    def release(self, owner: str) -> None:
        """The other end of an `acquire` that answered True. Raises RuntimeError where there was none."""
        count = self._open.get(owner, 0)
        if count == 0:
            raise RuntimeError("release without acquire")
        if count == 1:
            del self._open[owner]
        else:
            self._open[owner] = count - 1

    def count(self, owner: str) -> int:
        return self._open.get(owner, 0)
