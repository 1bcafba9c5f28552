from __future__ import annotations

import pytest

from gateway.throttle import Connections, Throttle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_at_once_then_the_rate() -> None:
    clock = Clock()
    throttle = Throttle(3, clock=clock)
    assert [throttle.take("t/a") for _ in range(4)] == [0, 0, 0, 20]
    clock.now = 20
    assert throttle.take("t/a") == 0


def test_principals_do_not_share_a_bucket() -> None:
    throttle = Throttle(1, clock=Clock())
    assert throttle.take("t/a") == 0
    assert throttle.take("t/b") == 0
    assert throttle.take("t/a") > 0


def test_the_longest_quiet_principal_is_forgotten_at_the_bound() -> None:
    throttle = Throttle(1, max_principals=2, clock=Clock())
    for owner in ("a", "b", "a", "c"):
        throttle.take(owner)
    assert len(throttle) == 2
    assert throttle.take("a") > 0
    assert throttle.take("b") == 0


def test_sockets_are_counted_up_to_the_limit() -> None:
    connections = Connections(2)
    assert [connections.acquire("a") for _ in range(3)] == [True, True, False]
    assert connections.acquire("b")
    connections.release("a")
    assert connections.count("a") == 1
    assert connections.acquire("a")
    connections.release("b")
    assert connections.count("b") == 0


def test_a_release_too_many_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        Connections(1).release("a")
