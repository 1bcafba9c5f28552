from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.wheel import Wheel
from tests.virtual_time import run_virtually


def turns_until(wheel: Wheel, fired: list[str]) -> int:
    """How often the wheel has to turn before anything fires."""
    for count in range(1, 1000):
        wheel.turn()
        if fired:
            return count
    raise AssertionError("nothing fired")


@pytest.mark.parametrize("delay", [0, 1, 2, 3, 4, 20, 59, 60])
def test_a_callback_is_never_early_and_at_most_one_tick_late(delay: int) -> None:
    wheel, fired = Wheel(), list[str]()
    wheel.after(delay, lambda: fired.append("x"))
    # The first turn may come at once, so that n turns are n - 1 whole ticks.
    assert turns_until(wheel, fired) == delay + 1


def test_delays_are_in_seconds_whatever_the_tick() -> None:
    wheel, fired = Wheel(tick=0.25), list[str]()
    wheel.after(1, lambda: fired.append("x"))
    assert turns_until(wheel, fired) == 5


def test_a_callback_is_called_once() -> None:
    wheel, fired = Wheel(), list[str]()
    wheel.after(1, lambda: fired.append("x"))
    for _ in range(10):
        wheel.turn()
    assert fired == ["x"]


def test_a_cancelled_callback_is_not_called_and_the_others_are() -> None:
    wheel, fired = Wheel(), list[str]()
    cancel = wheel.after(1, lambda: fired.append("cancelled"))
    wheel.after(1, lambda: fired.append("kept"))
    cancel()
    cancel()
    for _ in range(3):
        wheel.turn()
    assert fired == ["kept"]
    cancel()


def test_a_callback_may_cancel_another_of_its_own_tick() -> None:
    wheel, fired = Wheel(), list[str]()
    cancels: list[Callable[[], None]] = []

    def close() -> None:
        fired.append("close")
        for cancel in cancels:
            cancel()

    cancels.append(wheel.after(1, close))
    cancels.append(wheel.after(1, lambda: fired.append("after the close")))
    for _ in range(3):
        wheel.turn()
    assert fired == ["close"]


def test_a_callback_may_ask_to_be_called_again() -> None:
    wheel, beats = Wheel(), list[int]()

    def beat() -> None:
        beats.append(len(beats))
        wheel.after(1, beat)

    beat()
    for _ in range(6):
        wheel.turn()
    assert beats == [0, 1, 2, 3]


def test_a_callback_that_fails_stops_no_other() -> None:
    wheel, fired = Wheel(), list[str]()

    def fail() -> None:
        raise ZeroDivisionError

    wheel.after(1, fail)
    wheel.after(1, lambda: fired.append("next"))
    assert turns_until(wheel, fired) == 2


def test_it_turns_once_a_tick() -> None:
    async def main() -> float:
        wheel, fired = Wheel(), asyncio.Event()
        wheel.after(7, fired.set)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(wheel.run())
            await fired.wait()
            running.cancel()
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == 8


@pytest.mark.parametrize(
    ("stall", "fires_at"),
    [
        pytest.param(5.0, 9.0, id="late-ticks-are-made-up-for"),
        pytest.param(1000.0, 1008.0, id="deadlines-go-on-after-the-machine-slept"),
    ],
)
def test_a_stall(stall: float, fires_at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> float:
        loop, skew = asyncio.get_running_loop(), [0.0]
        unskewed = loop.time
        monkeypatch.setattr(loop, "time", lambda: unskewed() + sum(skew))
        wheel, fired = Wheel(), asyncio.Event()
        wheel.after(1, lambda: skew.append(stall))
        wheel.after(8, fired.set)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(wheel.run())
            await fired.wait()
            running.cancel()
        return loop.time()

    assert run_virtually(main()) == fires_at
