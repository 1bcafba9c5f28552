"""A reader notices whatever breaks the contract of what followers receive."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.frames import Cursor, Frame
from tests.torture.transcript import Meanings, Problem, Stream, Transcript


def event(kind: str, seq: int, **fields: Any) -> Frame:
    return {"type": kind, "context_id": "c", "turn_id": "t", "seq": seq, **fields}


def turn() -> list[Frame]:
    """A turn of two steps, with a call between them."""
    said = event("message", 1, id="t", role="user", content="calc 1 + 2", timestamp="…", status="complete")
    call = event("tool_call", 4, id="call", tool="calculator", parameters={}, message_id="m1")
    return [
        said,
        event("message_start", 2, id="m1", role="assistant", model="demo", attempt=1),
        event("delta", 3, message_id="m1", text="well"),
        call,
        event("message", 5, id="m1", role="assistant", content="well", status="complete"),
        event("tool_progress", 6, tool_call_id="call", progress=1.0),
        event("tool_response", 7, id="r", tool_call_id="call", result=3, status="success"),
        event("message_start", 8, id="m2", role="assistant", model="demo", attempt=1),
        event("delta", 9, message_id="m2", text="1 + 2 "),
        event("delta", 10, message_id="m2", text="= 3"),
        event("message", 11, id="m2", role="assistant", content="1 + 2 = 3", status="complete"),
        event("turn_end", 12, status="complete", steps=2, usage={}),
    ]


def snapshot(seq: int, events: list[Frame], **fields: Any) -> Frame:
    head: Frame = {"type": "snapshot", "context_id": "c", "epoch": "1", "seq": seq, "events": events}
    return head | {"has_more": False, "partial": [], "running": [], **fields}


def opened() -> Transcript:
    reader = Transcript("reader", Meanings())
    assert reader.subscribed(Cursor(1, 0)) == []
    assert reader.snapshot(snapshot(0, [])) == []
    return reader


def kinds(found: list[Problem]) -> list[str]:
    return [problem.kind for problem in found]


def after(*events: Frame) -> Transcript:
    reader = opened()
    for one in events:
        assert reader.event(one) == [], one
    return reader


def test_a_turn_that_is_as_it_should_be() -> None:
    reader = after(*turn())
    assert reader.cursor == Cursor(1, 12)
    assert list(reader.events) == [1, 4, 5, 7, 11, 12]
    assert not reader.partial
    assert not reader.running


def test_merged_frames_make_the_same() -> None:
    events = turn()
    merged = {**events[9], "first": 9, "text": "1 + 2 = 3"}
    reader = after(*events[:8], merged, *events[10:])
    assert reader.cursor == Cursor(1, 12)


@pytest.mark.parametrize(("place", "kind"), [(place, "gap") for place in range(1, 11)])
def test_an_event_that_is_missing(place: int, kind: str) -> None:
    events = turn()
    reader = after(*events[:place])
    assert kinds(reader.event(events[place + 1])) == [kind]
    assert reader.cursor == Cursor(1, place)


def test_an_event_that_comes_again() -> None:
    events = turn()
    reader = after(*events[:3])
    assert kinds(reader.event(events[2])) == ["gap"]
    again = event("message", 4, id="t", role="user", content="calc 1 + 2", timestamp="…", status="complete")
    assert kinds(reader.event(again)) == ["twice"]


def test_a_message_that_is_not_its_deltas() -> None:
    events = turn()
    reader = after(*events[:10])
    assert kinds(reader.event({**events[10], "content": "1 + 2 = 4"})) == ["message"]


def test_a_message_that_began_again_is_that_of_its_last_attempt() -> None:
    events = turn()
    reader = after(*events[:9], event("message_start", 10, id="m2", role="assistant", model="demo", attempt=2))
    assert reader.event(event("delta", 11, message_id="m2", text="3")) == []
    assert reader.event(event("message", 12, id="m2", role="assistant", content="3", status="complete")) == []


@pytest.mark.parametrize(
    ("late", "found"),
    [
        (event("message_start", 13, id="m3", role="assistant", model="demo", attempt=1), ["after_end"]),
        (event("delta", 13, message_id="m2", text="more"), ["after_end", "delta"]),
        (event("tool_progress", 13, tool_call_id="call", progress=2.0), ["after_end", "progress"]),
        (
            event("tool_response", 13, id="r2", tool_call_id="call", result=3, status="success"),
            ["after_end", "response"],
        ),
        (event("turn_end", 13, status="complete", steps=2, usage={}), ["after_end", "twice"]),
    ],
)
def test_what_comes_after_the_end(late: Frame, found: list[str]) -> None:
    assert kinds(after(*turn()).event(late)) == found


def test_an_end_with_something_open() -> None:
    events = turn()
    assert kinds(after(*events[:3]).event(event("turn_end", 4, status="complete", steps=0, usage={}))) == [
        "open_at_end"
    ]
    assert kinds(after(*events[:6]).event(event("turn_end", 7, status="complete", steps=1, usage={}))) == [
        "open_at_end"
    ]


def test_a_place_that_means_two_events() -> None:
    meanings, events = Meanings(), turn()
    one, other = Transcript("one", meanings), Transcript("other", meanings)
    for reader in (one, other):
        reader.subscribed(Cursor(1, 0))
        reader.snapshot(snapshot(0, []))
    assert one.event(events[0]) == []
    assert kinds(other.event({**events[0], "content": "calc 2 + 2"})) == ["two_meanings"]


def test_events_without_a_subscription() -> None:
    reader = after(*turn()[:3])
    reader.lost()
    assert kinds(reader.event(turn()[3])) == ["not_subscribed"]
    assert kinds(reader.snapshot(snapshot(3, turn()[:1], partial=[_partial("well")]))) == ["not_subscribed"]


def _partial(text: str, attempt: int = 1) -> Frame:
    return {"message_id": "m1", "turn_id": "t", "model": "demo", "attempt": attempt, "text": text, "reasoning": ""}


def test_a_reader_goes_on_after_its_cursor() -> None:
    reader = after(*turn()[:3])
    reader.lost()
    assert reader.subscribed(Cursor(1, 3)) == []
    assert reader.stream is Stream.OPEN
    assert reader.event(turn()[3]) == []


def test_a_reader_that_is_sent_back() -> None:
    reader = after(*turn()[:3])
    reader.lost()
    assert kinds(reader.subscribed(Cursor(1, 2))) == ["went_back"]
    assert "went_back" in kinds(reader.snapshot(snapshot(2, turn()[:1], partial=[_partial("")])))


def test_another_place_needs_a_snapshot() -> None:
    reader = after(*turn()[:3])
    reader.lost()
    assert reader.subscribed(Cursor(2, 7)) == []
    assert kinds(reader.event(turn()[3])) == ["not_subscribed"]
    assert kinds(reader.snapshot(snapshot(8, turn()[:1], epoch="2"))) == ["snapshot"]


@pytest.mark.parametrize(
    "wrong",
    [
        snapshot(6, turn()[:1] + turn()[4:5]),  # without the call
        snapshot(6, [turn()[0], turn()[3], turn()[4]]),  # the call is not running
        snapshot(6, [turn()[3], turn()[0], turn()[4]], running=[{"call": turn()[3]}]),
        snapshot(3, [turn()[0], turn()[3], turn()[4]], running=[{"call": turn()[3]}]),
    ],
)
def test_a_snapshot_that_is_wrong(wrong: Frame) -> None:
    reader = after(*turn()[:6])
    assert "snapshot" in kinds(reader.snapshot(wrong))


def test_a_snapshot_that_is_right() -> None:
    reader = after(*turn()[:6])
    right = snapshot(6, [turn()[0], turn()[3], turn()[4]], running=[{"call": turn()[3], "progress": 1.0}])
    assert reader.snapshot(right) == []
    for one in turn()[6:]:
        assert reader.event(one) == []


def test_a_snapshot_whose_text_is_not_what_was_read() -> None:
    reader = after(*turn()[:3])
    assert kinds(reader.snapshot(snapshot(3, turn()[:1], partial=[_partial("bad")]))) == ["snapshot"]


def test_a_snapshot_that_changes_an_event() -> None:
    reader = after(turn()[0])
    assert kinds(reader.snapshot(snapshot(1, [{**turn()[0], "content": "other"}]))) == ["snapshot", "changed"]


def test_a_snapshot_of_another_epoch_stands_for_itself() -> None:
    reader = after(*turn()[:6])
    under = [{**turn()[0], "seq": 1}, {**turn()[3], "seq": 2}]
    again = snapshot(2, under, epoch="2", running=[{"call": under[1]}], partial=[_partial("well", 2)], has_more=True)
    assert reader.snapshot(again) == []
    assert reader.since == 1
    assert reader.event({**turn()[4], "seq": 3}) == []


def test_older_events_are_kept_where_none_can_be_missing() -> None:
    reader = after(*turn())
    assert reader.snapshot(snapshot(12, turn()[10:], has_more=True)) == []
    assert list(reader.events) == [1, 4, 5, 7, 11, 12]


def test_a_response_says_its_epoch_with_each_event() -> None:
    reader = after(turn()[0])
    reader.lost()
    reader.resumed()
    assert kinds(reader.event(turn()[1], 2)) == ["epoch"]
    assert reader.event(turn()[1], 1) == []


def test_an_ack_that_created_the_context() -> None:
    reader = Transcript("reader", Meanings())
    reader.acknowledged(1, 1)
    for one in turn():
        assert reader.event(one) == []
    assert reader.cursor == Cursor(1, 12)


def test_a_message_whose_beginning_a_snapshot_left_out() -> None:
    events, meanings = turn(), Meanings()
    one, other = Transcript("one", meanings), Transcript("other", meanings)
    for reader in (one, other):
        reader.subscribed(Cursor(1, 0))
    one.snapshot(snapshot(0, []))
    for each in events[:3]:
        one.event(each)
    other.snapshot(snapshot(4, [events[0], events[3]], running=[{"call": events[3]}]))
    assert kinds(other.event(events[4])) == ["message"]


def test_a_message_whose_beginning_was_lost_with_the_log() -> None:
    reader = after(*turn()[:4])
    events = [turn()[0], {**turn()[3], "seq": 2}]
    reader.snapshot(snapshot(2, events, epoch="2", running=[{"call": events[1]}]))
    assert reader.event({**turn()[4], "seq": 3}) == []
