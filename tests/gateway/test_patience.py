from __future__ import annotations

import asyncio

import pytest

from gateway.patience import patiently
from stores.ports import NotFound, Unavailable
from tests.virtual_time import run_virtually


class Store:
    """Away so many times; `asked` is when it was asked."""

    def __init__(self, away: int, then: Exception | None = None) -> None:
        self._away = away
        self._then = then
        self.asked: list[float] = []

    async def call(self) -> str:
        self.asked.append(asyncio.get_running_loop().time())
        if len(self.asked) <= self._away:
            raise Unavailable("away")
        if self._then is not None:
            raise self._then
        return "answer"


def test_an_answer_is_not_asked_for_again() -> None:
    store = Store(away=0)
    assert run_virtually(patiently(store.call)) == "answer"
    assert store.asked == [0]


def test_it_waits_twice_as_long_each_time_up_to_two_seconds() -> None:
    store = Store(away=8)
    assert run_virtually(patiently(store.call)) == "answer"
    waits = [after - before for before, after in zip(store.asked, store.asked[1:], strict=False)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])  # pyright: ignore[reportUnknownMemberType]


def test_any_other_refusal_is_the_callers() -> None:
    store = Store(away=1, then=NotFound("c"))
    with pytest.raises(NotFound):
        run_virtually(patiently(store.call))
    assert len(store.asked) == 2


def test_whoever_waits_can_be_cancelled() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await patiently(Store(away=1_000_000).call)

    run_virtually(main())
