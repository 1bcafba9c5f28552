"""What a device writes again, and what it takes for an answer."""

from __future__ import annotations

import random

from tests.torture.frames import Frame
from tests.torture.journal import Journal
from tests.torture.outbox import Outbox


def outbox(*ids: str) -> Outbox:
    class Once(random.Random):
        def random(self) -> float:
            return 1.0  # nothing is written twice

    made, journal = Outbox(Once()), Journal()
    for frame_id in ids:
        made.add(journal.add("place", {"type": "message", "id": frame_id}))
    return made


def written(box: Outbox) -> list[str]:
    frames: list[Frame] = list(box.to_write())
    return [frame["id"] for frame in frames]


def test_what_was_not_answered_is_written_again_on_the_next_socket_in_order() -> None:
    box = outbox("a", "b", "c")
    assert written(box) == ["a", "b", "c"]
    assert written(box) == []
    assert box.answered("b")
    box.settle("b")
    box.begin()
    assert written(box) == ["a", "c"]


def test_an_answer_that_was_not_asked_for() -> None:
    box = outbox("a")
    assert not box.answered("a")
    assert written(box) == ["a"]
    assert box.answered("a")
    assert not box.answered("a")


def test_only_the_first_writing_is_fresh() -> None:
    box = outbox("a")
    assert written(box) == ["a"]
    assert box.fresh == {"a"}
    box.begin()
    assert written(box) == ["a"]
    assert box.fresh == set()


def test_so_many_are_in_flight() -> None:
    box = outbox(*(f"m{number}" for number in range(70)))
    assert len(written(box)) == 32
    box.answered("m0")
    box.settle("m0")
    assert written(box) == ["m32"]


def test_what_was_refused_for_now_waits() -> None:
    box = outbox("a")
    written(box)
    box.answered("a")
    box.postpone("a")
    assert written(box) == []
    box.again("a")
    assert written(box) == ["a"]
