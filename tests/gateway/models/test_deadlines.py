from __future__ import annotations

import asyncio

import pytest
from msgspec import Struct

from gateway.models.deadlines import next_deadline
from gateway.models.settings import Timeouts


class Answer(Struct):
    begun: bool = False
    reason: str | None = None


@pytest.mark.parametrize(
    ("answer", "between", "seconds"),
    [
        (Answer(begun=True), 60.0, 60.0),
        (Answer(begun=True, reason="stop"), 60.0, 5.0),
        (Answer(reason="stop"), 2.0, 2.0),
    ],
    ids=["between two parts", "after the end", "after the end of a fast provider"],
)
async def test_the_next_part_has_its_own_time(answer: Answer, between: float, seconds: float) -> None:
    now = asyncio.get_running_loop().time()
    deadline = next_deadline(answer, Timeouts(between_tokens=between), now + 120)
    assert now + seconds <= deadline < now + seconds + 1


async def test_before_the_first_part_the_time_runs_on() -> None:
    assert next_deadline(Answer(), Timeouts(), 42.0) == 42.0
