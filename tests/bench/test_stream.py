"""What the load script for streams notices, and a small run of it."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from bench.client import Frame
from bench.stream import Stream, StreamParameters, added_latencies, run_stream


def _feed(frames: list[Frame]) -> Stream:
    stream = Stream(7)
    for number, frame in enumerate(frames):
        stream.hear(frame, number / 10)
    return stream


WHOLE = [
    Frame(type="ack", id="m", seq=1),
    Frame(type="message", id="m", role="user", seq=1),
    Frame(type="message_start", id="a", role="assistant", seq=2),
    Frame(type="delta", message_id="a", text="one ", seq=3),
    Frame(type="delta", message_id="a", text="two three ", first=4, seq=5),
    Frame(type="message", id="a", role="assistant", content="one two three ", seq=6),
    Frame(type="turn_end", status="complete", seq=7),
]


async def test_a_whole_stream() -> None:
    stream = _feed(WHOLE)
    assert stream.faults == []
    assert stream.ended.done()
    assert list(stream.arrivals) == [0.3, 0.4, 0.4]
    assert (stream.merged, stream.acknowledged) == (1, 0.0)
    stream.lost()
    assert stream.faults == []


@pytest.mark.parametrize(
    ("place", "other", "fault"),
    [
        (3, None, "seq 4 came after 2"),
        (4, Frame(type="delta", text="two ", seq=3), "seq 3 came after 3"),
        (5, Frame(type="message", id="a", role="assistant", content="one two", seq=6), "not what its deltas make"),
        (6, Frame(type="turn_end", status="failed", seq=7), "the turn ended failed"),
        (6, Frame(type="error", code="internal"), "error internal"),
        (4, Frame(type="snapshot", seq=5), "a snapshot"),
    ],
)
async def test_what_is_broken_is_noticed(place: int, other: Frame | None, fault: str) -> None:
    stream = _feed(WHOLE[:place] + ([other] if other is not None else []) + WHOLE[place + 1 :])
    assert fault in stream.faults[0]
    assert stream.ended.done()


async def test_a_connection_that_is_lost_ends_the_stream() -> None:
    stream = _feed(WHOLE[:4])
    stream.lost()
    assert stream.ended.done()
    assert "closed in the middle" in stream.faults[0]


def test_added_latency_is_counted_from_the_schedule() -> None:
    on_time = array("d", [10.0, 11.0, 12.0])
    assert added_latencies(on_time, 1.0) == [0, 0, 0]
    stalled = array("d", [10.0, 14.0, 14.0, 14.0, 14.0])
    assert added_latencies(stalled, 1.0) == [0, 3, 2, 1, 0]
    late_from_the_start = array("d", [10.5, 11.0, 12.0])
    assert added_latencies(late_from_the_start, 1.0) == [0.5, 0, 0]
    assert added_latencies(array("d"), 1.0) == []


async def test_three_conversations_with_a_gateway() -> None:
    shown: list[int] = []
    parameters = StreamParameters(contexts=3, rate=100, seconds=1, spread=0.1)
    report: dict[str, Any] = msgspec.to_builtins(await run_stream(parameters, None, shown.append))
    results = report["results"]
    assert results["faults"] == []
    assert results["streams_whole"] == 3
    assert results["tokens"] >= 3 * 100
    assert results["added_ms"]["max"] >= results["added_ms"]["p50"] >= 0
    assert report["parameters"]["contexts"] == 3
    assert report["machine"]["cores"] >= 1
