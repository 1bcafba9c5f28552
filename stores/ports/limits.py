"""Rates of many principals, counted wherever they come in."""

from __future__ import annotations

from typing import Protocol

__all__ = ["RateLimits"]


class RateLimits(Protocol):
    """Token buckets by name: each holds `burst` at first and at most, and is filled with `per_second`."""

    async def take(self, name: str, n: float, per_second: float, burst: float) -> float:
        """Take `n`: 0 where they were there, else the seconds until they are, and nothing is taken. More than `burst`
        never is there; a time to wait is told all the same. Raises Unavailable, and ValueError for what is no rate."""
        ...
