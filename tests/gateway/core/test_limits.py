from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import TokenBucket, WindowCounter

RATES = st.floats(0.01, 1_000)
CAPACITIES = st.floats(1, 10_000)
STEPS = st.lists(st.floats(0, 100), max_size=50)


def test_a_full_bucket_gives_its_capacity_at_once_then_its_rate() -> None:
    bucket = TokenBucket(2, 3)
    assert [bucket.take(100) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(100.25) == 0.25
    assert bucket.take(100.5) == 0


def test_a_refusal_takes_nothing() -> None:
    bucket = TokenBucket(1, 2)
    assert bucket.take(0) == 0
    assert bucket.take(0, 2) == 1
    assert bucket.take(0) == 0


def test_a_clock_that_goes_backwards_neither_refills_nor_freezes() -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.take(1_000) == 0
    assert bucket.take(0) == 1
    assert bucket.take(1) == 0


@pytest.mark.parametrize(("rate", "capacity"), [(0, 1), (1, 0), (-1, 1), (1, -1), (float("nan"), 1), (1, float("nan"))])
def test_rate_and_capacity_are_positive(rate: float, capacity: float) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        TokenBucket(rate, capacity)


@pytest.mark.parametrize("n", [-1, 3, float("nan")])
def test_what_a_bucket_never_gives_is_refused(n: float) -> None:
    with pytest.raises(ValueError, match="can't give"):
        TokenBucket(1, 2).take(0, n)


@given(RATES, CAPACITIES, STEPS)
def test_no_run_gets_more_than_capacity_and_rate_allow(rate: float, capacity: float, steps: list[float]) -> None:
    bucket = TokenBucket(rate, capacity)
    now, taken = 0.0, 0
    for step in steps:
        now += step
        while bucket.take(now) == 0:
            taken += 1
            if taken > 20_000:
                return
    assert taken <= capacity + now * rate + 0.01


@given(RATES, CAPACITIES, st.lists(st.floats(-1_000, 1_000), max_size=20))
def test_after_the_wait_it_gives(rate: float, capacity: float, steps: list[float]) -> None:
    bucket = TokenBucket(rate, capacity)
    now = 0.0
    for step in steps:
        now += step
        wait = bucket.take(now)
        if wait > 0:
            now += wait + 1e-9
            assert bucket.take(now) == 0


def test_more_than_the_limit_within_the_window() -> None:
    counter = WindowCounter(2, 60)
    assert [counter.add(time) for time in (0, 1, 2)] == [False, False, True]


def test_what_is_older_than_the_window_does_not_count() -> None:
    counter = WindowCounter(2, 60)
    assert [counter.add(time) for time in (0, 30, 60, 61)] == [False, False, False, True]


def test_a_limit_of_zero_allows_none() -> None:
    assert WindowCounter(0, 60).add(0)


def test_a_window_heals_after_the_clock_went_backwards() -> None:
    counter = WindowCounter(2, 60)
    assert [counter.add(time) for time in (1_000, 1_001, 10)] == [False, False, True]
    assert not counter.add(71)


@pytest.mark.parametrize(("limit", "window"), [(-1, 1), (1, 0), (1, float("nan"))])
def test_a_window_has_a_length(limit: int, window: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        WindowCounter(limit, window)


@given(st.integers(0, 5), st.lists(st.integers(0, 200), max_size=40).map(sorted))
def test_the_window_agrees_with_counting(limit: int, times: list[int]) -> None:
    counter = WindowCounter(limit, 60)
    for index, time in enumerate(times):
        recent = [other for other in times[: index + 1] if time - other < 60]
        assert counter.add(time) == (len(recent) > limit)
