"""What a reader of the load scripts notices."""

from __future__ import annotations

import pytest

from bench.client import Frame, Partial
from bench.follower import Follower, differences

ASKED = Frame(type="message", id="m", role="user", content="long", seq=1)
BEGIN = [
    Frame(type="subscribed", epoch="1", seq=1),
    Frame(type="snapshot", epoch="1", seq=1, events=[ASKED]),
    Frame(type="message_start", id="a", role="assistant", seq=2),
    Frame(type="delta", message_id="a", text="one ", seq=3),
]
END = [
    Frame(type="delta", message_id="a", text="two three ", first=4, seq=5),
    Frame(type="message", id="a", role="assistant", content="one two three ", seq=6),
    Frame(type="turn_end", id="e", status="complete", seq=7),
]


def _feed(frames: list[Frame], name: str = "reader") -> Follower:
    follower = Follower("c", name)
    for number, frame in enumerate(frames):
        follower.hear(frame, number / 10)
    return follower


async def test_a_context_from_its_snapshot_to_its_end() -> None:
    follower = _feed(BEGIN + END)
    assert follower.faults == []
    assert follower.cursor == "1:7"
    assert follower.ended.done()
    assert follower.arrivals == {3: 0.3, 4: 0.4, 5: 0.4}
    assert (follower.snapshots, follower.merged) == (1, 1)
    assert list(follower.transcript) == [1, 6, 7]


async def test_it_goes_on_from_its_cursor_on_another_connection() -> None:
    follower = _feed([*BEGIN, Frame(type="subscribed", epoch="1", seq=3), *END])
    assert follower.faults == []
    assert follower.snapshots == 1


async def test_it_goes_on_from_a_snapshot_in_the_middle() -> None:
    snapshot = Frame(
        type="snapshot", epoch="2", seq=5, events=[ASKED], partial=[Partial(message_id="a", text="one two three ")]
    )
    follower = _feed([*BEGIN, Frame(type="subscribed", epoch="2", seq=5), snapshot, *END[1:]])
    assert follower.faults == []
    assert follower.cursor == "2:7"
    assert follower.arrivals == {3: 0.3}
    assert differences([_feed(BEGIN + END), follower]) == []


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([*BEGIN, *END[1:]], "seq 6 came after 3"),
        ([*BEGIN, BEGIN[3], *END], "seq 3 came after 3"),
        ([*BEGIN, Frame(type="subscribed", epoch="1", seq=5), *END], "seq 4 came in place of a snapshot"),
        ([BEGIN[0], *BEGIN[2:]], "seq 2 came in place of a snapshot"),
        (
            [*BEGIN, END[0], Frame(type="message", id="a", role="assistant", content="one two", seq=6)],
            "the message is not what its deltas make",
        ),
        (
            [*BEGIN, Frame(type="snapshot", epoch="1", seq=6, partial=[Partial(message_id="a", text="two ")])],
            "the text of a snapshot does not begin with its deltas",
        ),
        ([*BEGIN, Frame(type="snapshot", epoch="1", seq=2)], "a snapshot at 2 came after 3"),
        (
            [
                *BEGIN,
                Frame(
                    type="snapshot",
                    epoch="1",
                    seq=4,
                    events=[Frame(type="message", id="x", role="user", content="", seq=2)],
                ),
            ],
            "seq 2 is in the snapshot and never came",
        ),
        (
            [
                *BEGIN,
                Frame(
                    type="snapshot",
                    epoch="1",
                    seq=4,
                    events=[Frame(type="message", id="m", role="user", content="other", seq=1)],
                ),
            ],
            "seq 1 was two events",
        ),
        ([*BEGIN, *END[:2], Frame(type="turn_end", status="failed", seq=7)], "the turn ended failed"),
        ([*BEGIN, Frame(type="error", code="internal")], "error internal"),
    ],
)
async def test_what_is_broken_is_noticed(frames: list[Frame], fault: str) -> None:
    assert fault in _feed(frames).faults[0]


async def test_when_it_has_come_so_far() -> None:
    follower = _feed(BEGIN)
    assert follower.reaches(3, 9.0).result() == 9.0
    reached = follower.reaches(5, 9.0)
    assert not reached.done()
    follower.hear(END[0], 10.0)
    assert reached.result() == 10.0
    follower.hear(Frame(type="subscribed", epoch="2", seq=5), 11.0)
    reached = follower.reaches(5, 11.0)
    assert not reached.done(), "the snapshot has not come"
    follower.hear(Frame(type="snapshot", epoch="2", seq=5), 12.0)
    assert reached.result() == 12.0


async def test_those_who_end_differently() -> None:
    one, other = _feed(BEGIN + END, "one"), _feed(BEGIN + END[:2], "other")
    assert differences([one, one]) == []
    assert differences([one, other]) == ["other: it ended at seq 6 with 2 events, and one at 7 with 3"]
