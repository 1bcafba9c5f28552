"""Rates as values: the time is an argument, in seconds of any clock that mostly goes forward."""

from __future__ import annotations

from collections import deque

__all__ = ["TokenBucket", "WindowCounter"]

# A caller that waits as long as it was told to must not be refused for the last bit of a float.
_ROUNDING = 1e-6


class TokenBucket:
    """Allows `capacity` at once and `rate_per_second` in the long run. It starts full.

    A clock that goes backwards refills nothing and freezes nothing: the bucket goes on from the earlier time.
    """

    __slots__ = ("_capacity", "_rate", "_tokens", "_updated")

    def __init__(self, rate_per_second: float, capacity: float) -> None:
        if not (rate_per_second > 0 and capacity > 0):
            raise ValueError("a rate and a capacity are greater than 0")
        self._rate = rate_per_second
        self._capacity = capacity
        self._tokens = capacity
        self._updated: float | None = None

    def take(self, now: float, n: float = 1) -> float:
        """Take `n` tokens: 0 where they were taken, else the seconds until they would be there, and nothing is taken.
        Raises ValueError where `n` is more than the bucket can ever hold."""
        if not 0 <= n <= self._capacity:
            raise ValueError(f"a bucket of {self._capacity:g} can't give {n:g}")
        elapsed = 0.0 if self._updated is None else max(0.0, now - self._updated)
        self._updated = now
        self._tokens = min(self._capacity, self._tokens + elapsed * self._rate)
        missing = n - self._tokens
        if missing > _ROUNDING:
            return missing / self._rate
        self._tokens = max(0.0, -missing)
        return 0.0


class WindowCounter:
    """Tells when more than `limit` things happen within any `window` seconds. It holds `limit` + 1 times at most.

    Where the clock goes backwards, what happened "later" counts as of now, and is forgotten a window after that.
    """

    __slots__ = ("_times", "_window")

    def __init__(self, limit: int, window: float) -> None:
        if limit < 0 or not window > 0:
            raise ValueError("a limit is at least 0 and a window longer than 0")
        self._window = window
        self._times: deque[float] = deque(maxlen=limit + 1)

    def add(self, now: float) -> bool:
        """Count one more; whether that is more than the limit."""
        if self._times and self._times[-1] > now:
            self._times = deque((min(time, now) for time in self._times), maxlen=self._times.maxlen)
        self._times.append(now)
        return len(self._times) == self._times.maxlen and now - self._times[0] < self._window
