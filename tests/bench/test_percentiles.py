"""Percentiles."""

from __future__ import annotations

from bench.percentiles import percentiles


def test_they_are_values_that_occurred() -> None:
    seconds = [number / 1000 for number in range(1000, 0, -1)]
    assert percentiles(seconds) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}


def test_one_value_and_none() -> None:
    assert set(percentiles([0.0015]).values()) == {1.5}
    assert percentiles([]) == {}
