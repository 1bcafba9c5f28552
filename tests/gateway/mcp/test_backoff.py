from __future__ import annotations

from gateway.mcp.backoff import FIRST, LONGEST, WELL, Backoff


def longest(low: float, high: float) -> float:
    return high


def shortest(low: float, high: float) -> float:
    return low


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    backoff = Backoff(longest)
    pauses: list[float] = []
    for _ in range(2000):
        backoff.failed(100.0, 0.0, "is away")
        pauses.append(backoff.until - 100.0)
    assert pauses[:8] == [FIRST, 1, 2, 4, 8, 16, LONGEST, LONGEST]
    assert pauses[-1] == LONGEST


def test_the_pause_is_at_least_half_of_that() -> None:
    backoff = Backoff(shortest)
    backoff.failed(0.0, 0.0, "is away")
    assert backoff.until == FIRST / 2
    assert backoff.waits(FIRST / 2 - 0.01)
    assert not backoff.waits(FIRST / 2)


def test_what_was_well_for_a_while_begins_anew() -> None:
    backoff = Backoff(longest)
    for _ in range(5):
        backoff.failed(0.0, WELL - 1, "is away")
    backoff.failed(0.0, WELL, "is away")
    assert (backoff.failures, backoff.until) == (1, FIRST)
    backoff.reset()
    assert (backoff.failures, backoff.waits(0.0), backoff.words) == (0, False, "")
