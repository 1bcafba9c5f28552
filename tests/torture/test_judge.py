"""The judge finds whatever is lost, double, hanging or different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.torture.frames import Cursor, Frame
from tests.torture.journal import Journal
from tests.torture.judge import Evidence, judge
from tests.torture.transcript import Meanings, Transcript


def history() -> list[Frame]:
    """A turn that charges, a note, a direct call, a turn of words."""
    return [
        {
            "type": "message",
            "id": "m1",
            "turn_id": "m1",
            "seq": 1,
            "role": "user",
            "content": 'call charge {"mark":"a"}',
        },
        _call("call1", "m1", 3, "a", message_id="s1"),
        {"type": "message", "id": "s1", "turn_id": "m1", "seq": 4, "role": "assistant", "content": ""},
        _response("call1", "m1", 6),
        {"type": "message", "id": "s2", "turn_id": "m1", "seq": 9, "role": "assistant", "content": "charge answered"},
        _end("m1", 10),
        {"type": "message", "id": "note", "seq": 11, "role": "user", "content": "a note"},
        _call("call2", "call2", 12, "b"),
        _response("call2", "call2", 14),
        _end("call2", 15),
        {"type": "context", "seq": 16, "title": "a title"},
        {"type": "message", "id": "m2", "turn_id": "m2", "seq": 17, "role": "user", "content": "long 2"},
        {"type": "message", "id": "s3", "turn_id": "m2", "seq": 21, "role": "assistant", "content": "1 2 "},
        _end("m2", 22),
    ]


# What is put in between two events has half a seq.
def _call(call_id: str, turn_id: str, seq: float, mark: str, **fields: Any) -> Frame:
    head: Frame = {"type": "tool_call", "id": call_id, "turn_id": turn_id, "seq": seq, "tool": "charge"}
    return head | {"parameters": {"mark": mark}, **fields}


def _response(call_id: str, turn_id: str, seq: float, status: str = "success") -> Frame:
    head: Frame = {"type": "tool_response", "id": f"r-{call_id}", "turn_id": turn_id, "seq": seq}
    return head | {"tool_call_id": call_id, "result": {}, "status": status}


def _end(turn_id: str, seq: float) -> Frame:
    return {"type": "turn_end", "turn_id": turn_id, "seq": seq, "status": "complete", "steps": 1, "usage": {}}


def journal() -> Journal:
    made = Journal()
    for event in history():
        ours = event["type"] == "message" and event["role"] == "user"
        if ours or (event["type"] == "tool_call" and "message_id" not in event):
            names = ("type", "id", "content", "tool", "parameters")
            made.add("place", {name: event[name] for name in names if name in event})
            made.acknowledge(event["id"])
    made.add("place", {"type": "message", "id": "m3", "content": "never mind"})
    made.refuse("m3", "busy")
    return made


def found(events: list[Frame], **fields: Any) -> set[str]:
    given: dict[str, Any] = {
        "place": "place",
        "history": events,
        "sent": list(journal().sent.values()),
        "titles": ["a title"],
        "runs": {"call1": 1, "call2": 1},
        **fields,
    }
    return {violation.kind for violation in judge(Evidence(**given))}


def test_nothing_is_wrong() -> None:
    assert found(history(), readers=[_reader(history())]) == set()


Doctor = Callable[[list[Frame]], list[Frame]]


def _without(*keys: str) -> Doctor:
    """Without the events of these ids or types."""
    return lambda events: [event for event in events if not {event.get("id"), event["type"]} & {*keys}]


def _changed(place: int, **fields: Any) -> Doctor:
    """The event at the place with other fields; one that is None is left out."""

    def change(events: list[Frame]) -> list[Frame]:
        changed = {name: value for name, value in {**events[place], **fields}.items() if value is not None}
        return [*events[:place], changed, *events[place + 1 :]]

    return change


def _put_in(place: int, *events: Frame) -> Doctor:
    return lambda others: [*others[:place], *events, *others[place:]]


@pytest.mark.parametrize(
    ("doctor", "kinds"),
    [
        (_without("note"), {"lost"}),
        (_without("m1"), {"lost", "order"}),
        (_without("call2"), {"lost", "order", "response"}),
        (_without("context"), {"lost"}),
        (_without("turn_end"), {"hanging"}),
        (_without("r-call1"), {"hanging"}),
        (_put_in(7, {**history()[6], "seq": 11}), {"double", "order"}),
        (_put_in(7, {**history()[6], "seq": 11.5}), {"double"}),
        (_put_in(6, _end("m1", 10.5)), {"double"}),
        (_put_in(6, {**history()[4], "id": "s9", "seq": 10.5}), {"after_end"}),
        (
            _put_in(2, _call("call9", "m1", 3.5, "a", message_id="s1"), _response("call9", "m1", 3.6)),
            {"emitted_twice", "never_ran"},
        ),
        (_put_in(4, {**_response("call1", "m1", 7), "id": "r9"}), {"double"}),
        (_put_in(14, {"type": "message", "id": "x", "seq": 23, "role": "user", "content": "x"}), {"stranger"}),
        (_put_in(14, {"type": "message", "id": "m3", "seq": 23, "role": "user", "content": "never mind"}), {"refused"}),
        (_changed(6, content="another note"), {"changed"}),
        (_changed(7, parameters={"mark": "c"}), {"changed"}),
        (_changed(12, content="1 2 2 "), {"text"}),
        (_changed(13, status="failed"), {"failed"}),
        (_changed(11, seq=16), {"order"}),
        (_changed(13, seq=None), {"unplaced"}),
        (_without("call1", "r-call1"), {"not_called"}),
    ],
)
def test_a_history_that_was_doctored(doctor: Doctor, kinds: set[str]) -> None:
    assert found(doctor(history())) == kinds


@pytest.mark.parametrize(
    ("runs", "kinds"),
    [
        ({"call1": 2, "call2": 1}, {"ran_twice"}),
        ({"call1": 1}, {"never_ran"}),
    ],
)
def test_a_tool_that_ran_too_often_or_never(runs: dict[str, int], kinds: set[str]) -> None:
    assert found(history(), runs=runs) == kinds


def test_a_tool_that_was_interrupted_may_have_run_or_not() -> None:
    events = history()
    events[3] = _response("call1", "m1", 6, "interrupted")
    assert found(events, runs={"call2": 1}) == set()
    assert found(events) == set()
    events[3] = _response("call1", "m1", 6, "denied")
    assert found(events) == {"denied"}


def _reader(events: list[Frame]) -> Transcript:
    reader = Transcript("reader", Meanings())
    reader.subscribed(Cursor(1, 22))
    reader.snapshot(
        {"epoch": "1", "seq": 22, "events": events, "has_more": False, "partial": [], "running": [], "type": "snapshot"}
    )
    return reader


@pytest.mark.parametrize(
    ("doctor", "kinds"),
    [
        (_without("note"), {"differs"}),
        (_changed(4, content="charge replied"), {"differs"}),
        (_put_in(14, {"type": "message", "id": "x", "seq": 22.5, "role": "user", "content": "x"}), {"differs"}),
    ],
)
def test_a_reader_that_differs(doctor: Doctor, kinds: set[str]) -> None:
    assert found(history(), readers=[_reader(doctor(history()))]) == kinds


def test_a_reader_that_is_behind() -> None:
    reader = _reader(history())
    reader.cursor = Cursor(1, 21)
    assert found(history(), readers=[reader]) == {"behind"}


def test_a_reader_that_was_told_what_is_no_more() -> None:
    reader = _reader(history())
    reader.seen["message/gone"] = "{}"
    assert found(history(), readers=[reader]) == {"vanished"}
    assert found(history(), told={"message/gone": "{}"}) == {"vanished"}
