"""AG-UI events, judged by the rules of its client, and folded as it folds them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from ag_ui import core as ag
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.ag_ui import AgUiFormat
from protocol.errors import ProtocolError
from protocol.frames import (
    ErrorBody,
    Event,
    ImagePart,
    Message,
    Snapshot,
    TextPart,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
)
from tests.gateway.core.log_strategy import logs
from tests.gateway.core.turn_rig import CONTEXT, TURN, Rig
from tests.gateway.http.ag_ui_reader import AgUiReader
from tests.gateway.http.feeds import (
    answered,
    asked,
    called,
    delta,
    ended,
    feed_of,
    rows_of,
    said,
    snapshot_of,
    start,
    told,
)

CHOICES = st.lists(st.integers(0, 1 << 20), max_size=100)
SHARE = st.floats(0, 1)
"""How much of the events comes before something."""


def run_input(**more: Any) -> bytes:
    """As HttpAgent posts it."""
    body: dict[str, Any] = {
        "threadId": "thread_of_the_client",
        "runId": "run_1",
        "protocolVersion": "1.0",
        "messages": [
            {"id": "old_1", "role": "user", "content": "before"},
            {"id": "old_2", "role": "assistant", "content": "said\nbefore"},
            {"id": TURN, "role": "user", "content": "hello"},
        ],
        "tools": [],
        "context": [],
        "state": {},
        "forwardedProps": {},
    }
    return msgspec.json.encode(body | more)


def posted(body: bytes | None = None) -> tuple[AgUiFormat, AgUiReader]:
    format = AgUiFormat()
    body = run_input() if body is None else body
    format.request(body, CONTEXT)
    return format, AgUiReader(msgspec.json.decode(body)["messages"])


def check_turn(reader: AgUiReader, rig: Rig, feed: Sequence[Event | Snapshot]) -> None:
    """The reader ends with the messages of the turn, each once and whole."""
    assert [one["id"] for one in reader.messages[:3]] == ["old_1", "old_2", TURN]
    wanted = {TURN: "hello", "old_1": "before", "old_2": "said\nbefore"}
    for row in rows_of(feed):
        if isinstance(row, Message):
            assert isinstance(row.content, str)
            wanted[row.id] = row.content
        elif isinstance(row, ToolCall) and row.message_id is None:
            wanted[row.id] = ""  # what reads or asks is of no message: it has one of its own
        elif isinstance(row, ToolResponse):
            found = reader.find(row.id)
            assert found is not None
            assert found["toolCallId"] == row.tool_call_id
            wanted[row.id] = found["content"]
    shown = {one["id"]: one["content"] or "" for one in reader.messages if one["role"] != "reasoning"}
    assert shown == wanted
    called = {
        call["id"]: msgspec.json.decode(call["arguments"])
        for one in reader.messages
        for call in one.get("toolCalls") or ()
    }
    assert called == {call.id: call.parameters for call in rig.calls.values()}
    assert len(reader.runs) == 1
    assert not reader.running


@settings(deadline=None)
@given(CHOICES)
def test_a_turn_is_told_by_the_rules_whatever_happens_to_it(choices: list[int]) -> None:
    feed, rig = feed_of(choices)
    format, reader = posted()
    reader.read(told(format, feed))
    (end,) = [row for row in rig.rows if isinstance(row, TurnEnd)]
    reader.read(format.end(end))
    check_turn(reader, rig, feed)
    assert format.end(None) == b""


@settings(deadline=None)
@given(CHOICES)
def test_a_turn_that_is_over_is_told_from_what_is_stored(choices: list[int]) -> None:
    _, rig = feed_of(choices)
    format, reader = posted()
    reader.read(told(format, rig.rows) + format.end(None))
    check_turn(reader, rig, rig.rows)


@settings(deadline=None)
@given(CHOICES, SHARE, SHARE)
def test_a_snapshot_in_the_middle_of_a_turn_is_caught_up_with(choices: list[int], at: float, skipped: float) -> None:
    feed, rig = feed_of(choices)
    if any(isinstance(one, Snapshot) for one in feed):
        return
    events = [one for one in feed if not isinstance(one, Snapshot)]
    first, then = sorted(int(share * len(events)) for share in (at, skipped))
    format, reader = posted()
    reader.read(told(format, [*events[:first], snapshot_of(events[:then]), *events[then:]]))
    reader.read(format.end(None))
    check_turn(reader, rig, feed)


@settings(deadline=None)
@given(CHOICES, SHARE)
def test_a_server_that_goes_ends_the_run(choices: list[int], at: float) -> None:
    feed, _ = feed_of(choices)
    format, reader = posted()
    reader.read(told(format, feed[: int(at * len(feed))]) + format.end(None))
    assert len(reader.runs) == 1
    assert not reader.open


@settings(deadline=None)
@given(CHOICES)
def test_another_try_begins_where_the_client_began(choices: list[int]) -> None:
    """What the first one left with the client is dropped."""
    feed, rig = feed_of(choices)
    format, reader = posted()
    reader.read(told(format, feed[: len(feed) // 2]) + format.end(None))
    messages = [one for one in reader.messages if one["role"] != "reasoning" and not one.get("toolCalls")]
    body = run_input(messages=messages)
    format, again = posted(body)
    again.read(told(format, rig.rows) + format.end(None))
    check_turn(again, rig, rig.rows)


@settings(deadline=None)
@given(logs(), SHARE)
def test_a_stream_of_any_context_is_told_by_the_rules(events: list[Event], at: float) -> None:
    place = int(at * len(events))
    format, reader = AgUiFormat(), AgUiReader()
    reader.read(told(format, [snapshot_of(events[:place]), *events[place:]]))
    # A snapshot may come again at any moment.
    reader.read(told(format, [snapshot_of(events)]))
    for event in events:
        if isinstance(event, Message):
            assert reader.text(event.id) == event.content
    reader.read(format.end(None))
    assert not reader.running


# ---- one by one


def test_text_reasoning_and_a_call() -> None:
    format, reader = posted()
    progress = ToolProgress(context_id=CONTEXT, turn_id=TURN, tool_call_id="c1", progress=1, total=2, message="on")
    feed = [asked(), start(), delta("hm", channel="reasoning"), delta("a"), called(), delta("b"), said("ab")]
    reader.read(told(format, [*feed, progress, answered(), start("m2"), delta("c", "m2"), said("c", "m2"), ended()]))
    assert [(one["role"], one["content"]) for one in reader.messages[3:]] == [
        ("reasoning", "hm"),
        ("assistant", "ab"),
        ("tool", '{"ok":true}'),
        ("assistant", "c"),
    ]
    assert reader.custom == [
        ("tidegate.tool_progress", {"toolCallId": "c1", "progress": 1, "total": 2, "message": "on"})
    ]
    (run,) = reader.runs
    assert (run.thread_id, run.run_id, run.outcome.type) == (CONTEXT, "run_1", "success")
    assert run.usage[0].total_tokens == 7
    assert reader.types[:3] == ["RUN_STARTED", "STEP_STARTED", "REASONING_START"]
    assert reader.types[-2:] == ["STEP_FINISHED", "RUN_FINISHED"]


@pytest.mark.parametrize("status", ["cancelled", "max_steps", "complete"])
def test_how_a_turn_ends(status: str) -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), start(), delta("a"), said("a", status="cancelled"), ended(status)]))
    (run,) = reader.runs
    assert run.outcome.type == ("cancelled" if status == "cancelled" else "success")
    assert run.result == {"status": status, "steps": 1}


def test_a_turn_that_failed_is_a_run_error() -> None:
    format, reader = posted()
    error = ErrorBody(code="provider_error", message="The model failed.", retryable=False)
    reader.read(told(format, [asked(), start(), delta("half"), ended("failed", error=error)]))
    (run,) = reader.runs
    assert isinstance(run, ag.RunErrorEvent)
    assert (run.code, run.message) == ("provider_error", "The model failed.")
    assert reader.text("m1") is None, "a message that was given up is none"


def test_a_message_that_began_again_has_its_text_once() -> None:
    format, reader = posted()
    first = [asked(), start(), delta("hm", channel="reasoning"), delta("wrong")]
    reader.read(told(format, first))
    assert reader.text("m1") == "wrong"
    reader.read(told(format, [start(attempt=2)]))
    assert reader.text("m1") is None
    assert reader.text("m1.reasoning.1") == ""
    reader.read(told(format, [delta("ah", channel="reasoning"), delta("right"), said("right"), ended()]))
    assert reader.text("m1") == "right"
    assert reader.text("m1.reasoning.1") == "ah"
    assert reader.types.count("MESSAGES_SNAPSHOT") == 1


def test_a_message_that_differs_from_what_was_told_replaces_it() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), delta("llo"), said("hello"), ended()]))
    assert reader.text("m1") == "hello"


def test_approvals_are_custom_events_and_the_run_waits() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), start(), called(approval="required"), said("")]))
    assert reader.running
    decision = ToolApproval(context_id=CONTEXT, turn_id=TURN, tool_call_id="c1", approved=False, reason="no")
    denied = answered(status="denied", result=None, error=ErrorBody(code="forbidden", message="No.", retryable=False))
    reader.read(told(format, [decision, denied, ended()]))
    assert reader.custom == [
        ("tidegate.approval_request", {"toolCallId": "c1", "tool": "charge", "parameters": {"amount": 1}}),
        ("tidegate.approval", {"toolCallId": "c1", "approved": False, "reason": "no"}),
    ]
    assert reader.text("r_c1") == "No."


def test_other_turns_are_not_told_where_one_was_asked_for() -> None:
    format, reader = posted()
    other = [asked("q2", "other", "q2"), start("m9", "q2"), delta("x", "m9", "q2"), said("x", "m9", "q2")]
    unasked = asked("note", "by the way", None)
    reader.read(told(format, [unasked, asked(), *other, start(), said("a"), ended(turn="q2"), ended(), unasked]))
    assert [one["id"] for one in reader.messages[3:]] == ["m1"]


def test_a_steering_message_is_told_in_its_place() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), start(), delta("a"), asked("s1", "faster"), said("a"), start("m2")]))
    reader.read(told(format, [said("b", "m2"), ended()]))
    assert [(one["id"], one["role"]) for one in reader.messages[3:]] == [
        ("m1", "assistant"),
        ("s1", "user"),
        ("m2", "assistant"),
    ]


def test_a_message_that_steers_follows_the_turn_that_runs() -> None:
    format, reader = posted()
    steering = asked(TURN, "hello", "q0")
    reader.read(told(format, [steering, start("m1", "q0"), said("a", "m1", "q0"), ended(turn="q0")]))
    assert reader.text("m1") == "a"
    assert not reader.running


def test_a_stream_tells_one_run_after_another() -> None:
    format, reader = AgUiFormat(), AgUiReader()
    reader.read(told(format, [snapshot_of([])]))
    assert reader.types == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    note = asked("note", "by the way", None)
    queued = asked("q2", "and then", "q2")
    direct = [called("d1", None, "d1"), answered("d1", "d1"), ended(turn="d1")]
    first = [asked(), start(), delta("a"), queued, *direct, said("a"), ended()]
    second = [start("m2", "q2"), said("b", "m2", "q2"), ended(turn="q2")]
    late = ToolApproval(context_id=CONTEXT, turn_id="q2", tool_call_id="c9", approved=True)
    reader.read(told(format, [note, *first, *second, late, asked("late", "too late", "q2")]))
    assert [run.run_id for run in reader.runs] == ["snapshot:1:1", "note", TURN, "q2", "late"]
    assert not reader.running
    assert reader.text("q2") == "and then"
    assert reader.text("r_d1") == '{"ok":true}'


def test_a_snapshot_holds_images_calls_and_what_is_being_written() -> None:
    picture = asked("p1", turn="p1")
    picture = msgspec.structs.replace(
        picture, content=[TextPart(text="look"), ImagePart(mime_type="image/png", data="AAAA")], turn_id=None
    )
    events = [picture, asked(), start(), delta("hm", channel="reasoning"), delta("a"), called(approval="required")]
    format, reader = AgUiFormat(), AgUiReader()
    reader.read(told(format, [snapshot_of(events)]))
    assert reader.running
    assert [one["role"] for one in reader.messages] == ["assistant", "user", "user", "reasoning"]
    assert reader.text("m1") == "a"
    assert reader.custom[0][0] == "tidegate.approval_request"
    reader.read(told(format, [start(attempt=2), delta("b"), said("b"), answered(), ended()]))
    assert reader.text("m1") == "b"
    assert reader.runs[0].run_id == TURN


def test_a_message_that_was_not_to_be_answered_is_a_run_without_an_answer() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(turn=None)]) + format.end(None))
    assert reader.types == ["RUN_STARTED", "RUN_FINISHED"]


# ---- requests


def test_the_newest_message_of_the_user_is_sent() -> None:
    props = {"tidegate": {"model": "big", "replaces": "old_1", "when_busy": "reject", "metadata": {"a": 1}}, "x": 1}
    message = AgUiFormat().request(run_input(forwardedProps=props), CONTEXT)
    assert (message.id, message.content, message.context_id) == (TURN, "hello", CONTEXT)
    assert (message.model, message.replaces, message.when_busy, message.metadata) == (
        "big",
        "old_1",
        "reject",
        {"a": 1},
    )


def test_text_and_images_are_sent() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}},
        {"type": "image", "source": {"type": "url", "value": "data:image/gif;base64,BBBB"}},
    ]
    message = AgUiFormat().request(run_input(messages=[{"id": "q", "role": "user", "content": parts}]), CONTEXT)
    assert message.content == [
        TextPart(text="look"),
        ImagePart(mime_type="image/png", data="AAAA"),
        ImagePart(mime_type="image/gif", data="BBBB"),
    ]


USER: dict[str, Any] = {"id": "q", "role": "user", "content": "hello"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"id": "a", "role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [USER | {"id": "no id"}]}, "messages[0].id"),
    ({"messages": ["text"]}, "messages[0]"),
    ({"messages": [USER | {"content": []}]}, "messages[0].content"),
    ({"messages": [USER | {"content": [{"type": "audio"}]}]}, "messages[0].content[0]"),
    (
        {
            "messages": [
                USER | {"content": [{"type": "image", "source": {"type": "url", "value": "https://x.example"}}]}
            ]
        },
        "messages[0].content[0].source",
    ),
    ({"messages": [USER | {"content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
    ({"runId": ""}, "runId"),
    ({"forwardedProps": {"tidegate": {"when_busy": "never"}}}, "forwardedProps.tidegate.when_busy"),
    ({"forwardedProps": {"tidegate": {"metadata": msgspec.Raw(b'{"a":' * 150 + b"1" + b"}" * 150)}}}, "metadata"),
]


@pytest.mark.parametrize(("change", "path"), WRONG)
def test_what_is_wrong_with_a_request_is_named(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        AgUiFormat().request(run_input(**change), CONTEXT)
    assert (caught.value.code, caught.value.path) == ("invalid_frame", path)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 5000])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        AgUiFormat().request(body, CONTEXT)


def test_what_the_client_brought_is_repeated_on_one_line() -> None:
    """Whatever white space it wrote, an event stays one."""
    body = msgspec.json.format(run_input(), indent=2)
    format, reader = posted(body)
    reader.read(told(format, [asked(), start(), delta("x"), start(attempt=2), delta("y"), said("y"), ended()]))
    assert [one["content"] for one in reader.messages] == ["before", "said\nbefore", "hello", "y"]


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("gateway.http.ag_ui_messages")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "ag_ui", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tidegate\[ag-ui\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
