from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.snapshot import SNAPSHOT_EVENTS, complete_history, make_snapshot
from protocol.codec import decode_durable, decode_server, encode
from protocol.frames import DurableEvent, Message, Snapshot, ToolCall, ToolResponse
from stores.records import EventRow, History, LogFold, OpenMessage, Progress

CONTEXT = "conv_1"


def row(event: Message | ToolCall | ToolResponse, seq: int | None, order: int = 0) -> EventRow:
    return EventRow(
        id=event.id, type=str(type(event).__struct_config__.tag), body=encode(event), order=order or seq or 0, seq=seq
    )


def message(id: str) -> Message:
    return Message(context_id=CONTEXT, id=id, content=id, role="user", timestamp="now", status="complete")


def call(id: str) -> ToolCall:
    return ToolCall(context_id=CONTEXT, id=id, tool="t", parameters={}, timestamp="now", runs_on="server")


def response(id: str, of: str) -> ToolResponse:
    return ToolResponse(context_id=CONTEXT, id=id, tool_call_id=of, result=None, status="success", timestamp="now")


def fold(seq: int, ids: Mapping[str, int] | None = None, **live: Any) -> LogFold:
    parts: dict[str, Any] = {"open": [], "progress": {}, **live}
    return LogFold(epoch=3, seq=seq, ids=ids or {}, **parts)


def taken(fold: LogFold, history: History, open_calls: Sequence[EventRow] = ()) -> Snapshot:
    frame = decode_server(make_snapshot(CONTEXT, fold, history, open_calls))
    assert isinstance(frame, Snapshot)
    return frame


def places(events: Sequence[DurableEvent]) -> list[tuple[int, str]]:
    return [(event.seq, event.id) for event in events if isinstance(event, Message | ToolCall | ToolResponse)]


def test_recorded_and_unrecorded_events_take_their_places() -> None:
    rows = [row(message("a"), 1), row(message("b"), 4), row(message("later"), 9)]
    unsequenced = [row(message("c"), None), row(message("not in the log"), None), row(message("beyond"), None)]
    frame = taken(fold(5, {"c": 3, "beyond": 6}), History(rows, unsequenced, has_more=False))
    assert places(frame.events) == [(1, "a"), (3, "c"), (4, "b")]
    assert (frame.context_id, frame.epoch, frame.seq, frame.has_more) == (CONTEXT, "3", 5, False)


def test_it_holds_the_newest_events_at_most() -> None:
    rows = [row(message(f"m{seq}"), seq) for seq in range(1, SNAPSHOT_EVENTS + 2)]
    frame = taken(fold(SNAPSHOT_EVENTS + 1), History(rows, [], has_more=False))
    assert (len(frame.events), frame.events[0].seq, frame.has_more) == (SNAPSHOT_EVENTS, 2, True)
    assert taken(fold(5), History(rows[:5], [], has_more=True)).has_more


def test_the_message_that_is_being_written_is_in_it() -> None:
    opened = OpenMessage(message_id="m1", turn_id="t1", model="m", attempt=2, text="so far", reasoning="why")
    (partial,) = taken(fold(5, open=[opened]), History([], [], has_more=False)).partial
    assert msgspec.structs.asdict(partial) == msgspec.structs.asdict(opened)


def test_every_call_without_an_answer_is_in_it_with_its_last_progress() -> None:
    calls = [row(call("recorded"), 1), row(call("logged"), None), row(call("stored"), None), row(call("later"), 9)]
    step = Progress(call_id="recorded", progress=1, total=3, message="on")
    frame = taken(fold(5, {"logged": 4}, progress={"recorded": step}), History([], [], has_more=True), calls)
    assert [(running.call.id, running.call.seq) for running in frame.running] == [("recorded", 1), ("logged", 4)]
    first, second = frame.running
    assert (first.progress, first.total, first.message) == (1, 3, "on")
    assert (second.progress, second.total, second.message) == (None, None, None)


def test_an_answer_that_the_log_has_ends_a_call_also_before_it_is_recorded() -> None:
    history = History([], [row(response("r1", "c1"), None), row(response("r2", "c2"), None)], has_more=False)
    calls = [row(call("c1"), 1), row(call("c2"), 2)]
    frame = taken(fold(5, {"r1": 4, "r2": 6}), history, calls)
    assert [running.call.id for running in frame.running] == ["c2"]


def test_a_page_of_history_is_complete_at_any_moment() -> None:
    unsequenced = [row(message("logged"), None, 7), row(message("only stored"), None, 8)]
    page = History([row(message("a"), 1), row(message("b"), 5)], unsequenced, has_more=False)
    known = [decode_durable(body) for body in complete_history(page, fold(6, {"logged": 3}))]
    assert places(known) == [(1, "a"), (3, "logged"), (5, "b"), (0, "only stored")]
    away = [decode_durable(body) for body in complete_history(page, None)]
    assert places(away) == [(1, "a"), (5, "b"), (0, "logged"), (0, "only stored")]
