"""UI message streams, judged by the rules of the AI SDK, and folded as it folds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.ai_sdk import AiSdkFormat
from protocol.errors import ProtocolError
from protocol.frames import (
    ErrorBody,
    Event,
    ImagePart,
    Message,
    Snapshot,
    TextPart,
    ToolApproval,
    ToolProgress,
    ToolResponse,
    TurnEnd,
)
from tests.gateway.core.log_strategy import logs
from tests.gateway.core.turn_rig import CONTEXT, TURN, Rig
from tests.gateway.http.ai_sdk_reader import AiSdkReader
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
REPLY = f"{TURN}.reply"


def chat(**more: Any) -> bytes:
    """As DefaultChatTransport posts it."""
    body: dict[str, Any] = {
        "id": "chat_of_the_client",
        "messages": [
            {"id": "old_1", "role": "user", "parts": [{"type": "text", "text": "before"}]},
            {"id": "old_2", "role": "assistant", "parts": [{"type": "step-start"}]},
            {"id": TURN, "role": "user", "parts": [{"type": "text", "text": "hello"}]},
        ],
        "trigger": "submit-message",
    }
    return msgspec.json.encode(body | more)


def posted() -> tuple[AiSdkFormat, AiSdkReader]:
    format = AiSdkFormat()
    format.request(chat(), CONTEXT)
    return format, AiSdkReader()


def check_turn(reader: AiSdkReader, rig: Rig, feed: Sequence[Event | Snapshot]) -> None:
    """One UI message, with a step for each message, its text once and whole, and each call with its answer."""
    assert reader.done
    assert list(reader.messages) == [REPLY]
    rows = rows_of(feed)
    texts = ["".join(part["text"] for part in step if part["type"] == "text") for step in reader.steps(REPLY)]
    wanted = [row.content for row in rows if isinstance(row, Message) and row.role == "assistant"]
    # A step that was given up before its first word leaves no message.
    assert [text for text in texts if text] == [text for text in wanted if text]
    parts = {part["toolCallId"]: part for part in reader.messages[REPLY] if part["type"] == "tool"}
    assert parts.keys() == rig.calls.keys()
    for row in rows:
        if isinstance(row, ToolResponse):
            part = parts[row.tool_call_id]
            call = rig.calls[row.tool_call_id]
            if row.status == "success":
                assert (part["state"], part["output"]) == ("output-available", row.result)
            elif row.status == "denied" and call.approval is not None:
                assert part["state"] == "output-denied"
            else:
                assert part["state"] == "output-error"
                assert part["error"]
            decision = rig.decisions.get(call.id)
            edited = decision.parameters if decision is not None and decision.approved else None
            # What somebody decided after the turn's end is not told.
            assert part["input"] in (call.parameters, edited)
    assert len(reader.finished) == 1


@settings(deadline=None)
@given(CHOICES)
def test_a_turn_is_told_by_the_rules_whatever_happens_to_it(choices: list[int]) -> None:
    feed, rig = feed_of(choices)
    format, reader = posted()
    reader.read(told(format, feed))
    (end,) = [row for row in rig.rows if isinstance(row, TurnEnd)]
    check_turn(reader.read(format.end(end)), rig, feed)


@settings(deadline=None)
@given(CHOICES)
def test_a_turn_that_is_over_is_told_from_what_is_stored(choices: list[int]) -> None:
    _, rig = feed_of(choices)
    format, reader = posted()
    check_turn(reader.read(told(format, rig.rows) + format.end(None)), rig, rig.rows)


@settings(deadline=None)
@given(CHOICES, SHARE, SHARE)
def test_a_snapshot_in_the_middle_of_a_turn_is_caught_up_with(choices: list[int], at: float, skipped: float) -> None:
    feed, rig = feed_of(choices)
    if any(isinstance(one, Snapshot) for one in feed):
        return
    events = [one for one in feed if not isinstance(one, Snapshot)]
    first, then = sorted(int(share * len(events)) for share in (at, skipped))
    format, reader = posted()
    given = [*events[:first], snapshot_of(events[:then]), *events[then:]]
    check_turn(reader.read(told(format, given) + format.end(None)), rig, events)


@settings(deadline=None)
@given(CHOICES, SHARE)
def test_whoever_joins_a_turn_is_told_it_from_its_beginning(choices: list[int], at: float) -> None:
    """As a page does that was loaded anew, on a stream: under the same id as the one that asked."""
    feed, rig = feed_of(choices)
    events = [one for one in feed if not isinstance(one, Snapshot)]
    if len(events) < len(feed):
        return
    end = next(n for n, one in enumerate(events) if isinstance(one, TurnEnd))
    place = int(at * end)
    format = AiSdkFormat()
    reader = AiSdkReader().read(told(format, [snapshot_of(events[:place]), *events[place:]]) + format.end(None))
    check_turn(reader, rig, events)


@settings(deadline=None)
@given(CHOICES, SHARE)
def test_a_server_that_goes_is_an_error(choices: list[int], at: float) -> None:
    feed, _ = feed_of(choices)
    format, reader = posted()
    reader.read(told(format, feed[: int(at * len(feed))]) + format.end(None))
    assert reader.done
    assert reader.finished or reader.errors
    assert not reader.in_step


@settings(deadline=None)
@given(logs(), SHARE)
def test_a_stream_of_any_context_is_told_by_the_rules(events: list[Event], at: float) -> None:
    place = int(at * len(events))
    format, reader = AiSdkFormat(), AiSdkReader()
    reader.read(told(format, [snapshot_of(events[:place]), *events[place:], snapshot_of(events)]) + format.end(None))
    assert reader.done


# ---- one by one


def test_text_reasoning_and_a_call() -> None:
    format, reader = posted()
    progress = ToolProgress(context_id=CONTEXT, turn_id=TURN, tool_call_id="c1", progress=1, message="on")
    feed = [asked(), start(), delta("hm", channel="reasoning"), delta("a"), called(), delta("b"), said("ab")]
    reader.read(told(format, [*feed, progress, answered(), progress, start("m2"), delta("c", "m2"), said("c", "m2")]))
    reader.read(told(format, [ended()]) + format.end(ended()))
    assert [part["type"] for part in reader.messages[REPLY]] == [
        *("step", "reasoning", "text", "tool", "text"),
        *("step", "text"),
    ]
    assert reader.types.count("data-tool-progress") == 1
    assert reader.types[:3] == ["start", "start-step", "reasoning-start"]
    assert reader.types[-2:] == ["finish-step", "finish"]
    assert format.headers == {"x-vercel-ai-ui-message-stream": "v1"}


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("complete", "complete", "stop"),
        ("complete", "truncated", "length"),
        ("cancelled", "cancelled", "other"),
        ("max_steps", "complete", "tool-calls"),
        ("failed", "failed", "error"),
    ],
)
def test_how_a_turn_ends(status: str, message: str, reason: str) -> None:
    format, reader = posted()
    error = ErrorBody(code="provider_error", message="The model failed.", retryable=False)
    end = ended(status, error=error if status == "failed" else None)
    reader.read(told(format, [asked(), start(), delta("a"), said("a", status=message), end]))
    assert reader.finished == [reason]
    assert reader.errors == (["The model failed."] if status == "failed" else [])
    assert ("abort" in reader.types) == (status == "cancelled")


def test_a_message_that_began_again_has_its_text_once() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), start(), delta("hm", channel="reasoning"), delta("wrong"), start(attempt=2)]))
    reader.read(told(format, [delta("right"), said("right"), ended()]))
    assert reader.steps(REPLY) == [[{"type": "text", "text": "right"}]]


def test_a_message_that_differs_from_what_was_told_replaces_it_and_keeps_its_calls() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), delta("llo"), called(), answered(), said("hello"), ended()]))
    assert [part["type"] for part in reader.steps(REPLY)[0]] == ["tool", "text"]
    assert reader.part("c1")["state"] == "output-available"


def test_a_message_waits_for_rows_that_come_behind_it() -> None:
    """As they do after the log was lost."""
    format, reader = posted()
    late = [asked(), called(message_id="m0"), said("", "m0"), answered()]
    feed = [start(attempt=2), delta("hm", channel="reasoning"), delta("a"), *late, delta("b"), said("abc"), ended()]
    reader.read(told(format, feed))
    assert [[part["type"] for part in step] for step in reader.steps(REPLY)] == [[], ["tool"], ["reasoning", "text"]]
    assert reader.parts[-1]["text"] == "abc"


@pytest.mark.parametrize("approved", [True, False])
def test_a_call_waits_for_a_person(approved: bool) -> None:
    format, reader = posted()
    reader.read(told(format, [asked(), start(), called(approval="required", runs_on="client"), said("")]))
    assert reader.part("c1") == {
        "type": "tool",
        "toolCallId": "c1",
        "state": "approval-requested",
        "approval": "c1",
        "input": {"amount": 1},
    }
    assert "tool-input-available" not in reader.types, "or the client would run it"
    decision = ToolApproval(
        context_id=CONTEXT, turn_id=TURN, tool_call_id="c1", approved=approved, parameters={"amount": 2}, reason="ok"
    )
    reader.read(told(format, [decision]))
    assert reader.part("c1")["input"] == {"amount": 2 if approved else 1}
    status = "success" if approved else "denied"
    reader.read(told(format, [answered(status=status), ended()]))
    assert reader.part("c1")["state"] == ("output-available" if approved else "output-denied")


def test_a_stream_tells_one_turn_after_another_and_nothing_beside_them() -> None:
    format, reader = AiSdkFormat(), AiSdkReader()
    assert told(format, [snapshot_of([])]) == b""
    direct = [called("d1", None, "d1"), answered("d1", "d1"), ended(turn="d1")]
    queued = asked("q2", "and then", "q2")
    note = asked("note", "by the way", None)
    reader.read(told(format, [*direct, asked(), note, start(), delta("a"), queued, *direct, said("a"), ended()]))
    late = ToolApproval(context_id=CONTEXT, turn_id=TURN, tool_call_id="c1", approved=True)
    reader.read(told(format, [late, start("m2", "q2"), said("b", "m2", "q2"), ended(turn="q2")]) + format.end(None))
    assert list(reader.messages) == [REPLY, "q2.reply"]
    assert [one["id"] for one in reader.data] == [TURN, "note", "q2"]
    assert reader.finished == ["stop", "stop"]
    assert reader.errors == []


def test_a_snapshot_tells_a_turn_that_has_only_been_asked_for() -> None:
    format, reader = AiSdkFormat(), AiSdkReader()
    reader.read(told(format, [snapshot_of([asked()])]))
    assert reader.types == ["start"]


def test_a_message_that_was_not_to_be_answered_has_an_empty_answer() -> None:
    format, reader = posted()
    reader.read(told(format, [asked(turn=None)]) + format.end(None))
    assert (reader.types, reader.messages, reader.done) == (["start", "finish"], {REPLY: []}, True)


# ---- requests


def test_the_newest_message_is_sent() -> None:
    options = {"model": "big", "tools": ["clock"], "when_busy": "interrupt"}
    message = AiSdkFormat().request(chat(tidegate=options), CONTEXT)
    assert (message.id, message.content, message.context_id) == (TURN, "hello", CONTEXT)
    assert (message.model, message.tools, message.when_busy) == ("big", ["clock"], "interrupt")
    assert message.replaces is None


@pytest.mark.parametrize(
    "change",
    [{"trigger": "regenerate-message", "messageId": "old_2"}, {"messageId": TURN}, {"trigger": "regenerate-message"}],
)
def test_a_question_that_is_asked_again_replaces_itself(change: dict[str, Any]) -> None:
    first, second = (AiSdkFormat().request(chat(**change, tidegate={"model": "big"}), CONTEXT) for _ in range(2))
    assert first.replaces == second.replaces == TURN
    assert len({first.id, second.id, TURN}) == 3
    assert (first.content, first.model) == ("hello", "big")


def test_text_and_images_are_sent() -> None:
    parts = [
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"},
        {"type": "text", "text": "look"},
        {"type": "data-of-the-front-end", "data": 1},
    ]
    message = AiSdkFormat().request(chat(messages=[{"id": "q", "role": "user", "parts": parts}]), CONTEXT)
    assert message.content == [ImagePart(mime_type="image/png", data="AAAA"), TextPart(text="look")]


USER: dict[str, Any] = {"id": "q", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"id": "a", "role": "assistant", "parts": []}]}, "messages[0].role"),
    ({"messages": [USER, USER | {"id": ""}]}, "messages[1].id"),
    ({"messages": [USER | {"parts": []}]}, "messages[0].parts"),
    ({"messages": [USER | {"parts": [{"type": "text", "text": ""}] * 257}]}, "messages[0].parts"),
    ({"messages": [USER | {"parts": [{"type": "file", "url": "https://x.example"}]}]}, "messages[0].parts[0].url"),
    (
        {"messages": [USER | {"parts": [{"type": "file", "url": "data:text/plain;base64,AA"}]}]},
        "messages[0].parts[0].url",
    ),
    ({"messages": [USER | {"parts": [{"text": "x"}]}]}, "messages[0].parts[0].type"),
    ({"trigger": "resume-stream"}, "trigger"),
    ({"tidegate": {"tools": "clock"}}, "tidegate.tools"),
]


@pytest.mark.parametrize(("change", "path"), WRONG)
def test_what_is_wrong_with_a_request_is_named(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        AiSdkFormat().request(chat(**change), CONTEXT)
    assert (caught.value.code, caught.value.path) == ("invalid_frame", path)
