"""Percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["percentiles"]

_POINTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds: the smallest value that is not less than this part of all. Empty for no values."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {
        name: round(1000 * ordered[max(0, math.ceil(part * len(ordered)) - 1)], 3) for name, part in _POINTS.items()
    }
