"""When a server that failed is tried again: later after each failure, never all at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

__all__ = ["FIRST", "LONGEST", "WELL", "Backoff"]

FIRST: Final = 0.5
LONGEST: Final = 30.0
WELL: Final = 30.0
"""A connection that has lasted so many seconds ends a row of failures."""


class Backoff:
    """Of one server and whoever uses it. Times are those of one clock, in seconds."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self.failures = 0
        self.until = 0.0
        self.words = ""

    def failed(self, now: float, lasted: float, words: str) -> None:
        """`lasted` is how long it was well before it failed."""
        self.failures = 1 if lasted >= WELL else self.failures + 1
        # Beyond ten doublings the longest pause is reached long since, and a float is not.
        pause = min(LONGEST, FIRST * 2 ** min(self.failures - 1, 10))
        self.until = now + self._uniform(pause / 2, pause)
        self.words = words

    def waits(self, now: float) -> bool:
        """Whether it is too early to try again."""
        return now < self.until

    def reset(self) -> None:
        self.failures, self.until, self.words = 0, 0.0, ""
