from __future__ import annotations

from typing import Any, Literal

import pytest

from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput
from gateway.core.window import TooLong, estimate_tokens, fit, turns_of
from protocol.frames import (
    ContextChanged,
    DurableEvent,
    ImagePart,
    Message,
    ResponseStatus,
    Role,
    TextPart,
    ToolApproval,
    ToolCall,
    ToolResponse,
    TurnEnd,
    Usage,
)

MANY = 1 << 30


def message(id: str, turn: str | None, role: Role = "user", content: Any = None) -> Message:
    text = id if content is None else content
    return Message(context_id="c", turn_id=turn, id=id, content=text, role=role, timestamp="now", status="complete")


def call(id: str, turn: str, of: str | None) -> ToolCall:
    return ToolCall(
        context_id="c",
        turn_id=turn,
        id=id,
        tool="charge",
        parameters={"amount": 1},
        timestamp="now",
        runs_on="server",
        message_id=of,
    )


def answer(id: str, turn: str, result: Any = "paid", status: ResponseStatus = "success") -> ToolResponse:
    return ToolResponse(
        context_id="c", turn_id=turn, id=f"r{id}", tool_call_id=id, result=result, status=status, timestamp="now"
    )


def end(turn: str) -> TurnEnd:
    return TurnEnd(
        context_id="c", turn_id=turn, status="complete", steps=1, usage=Usage(input_tokens=0, output_tokens=0)
    )


def turn(id: str) -> list[DurableEvent]:
    return [message(id, id), message(f"{id}a", id, "assistant"), end(id)]


def user(text: str) -> TextInput:
    return TextInput("user", text)


def said(text: str, *calls: str) -> AssistantInput:
    return AssistantInput(text, tuple(CallInput(made, "charge", {"amount": 1}) for made in calls))


def paid(id: str) -> ToolResultInput:
    return ToolResultInput(id, "paid", is_error=False)


def read(*events: DurableEvent) -> list[ModelInput]:
    """What the model is given of one turn."""
    return fit([events], MANY)


def one(item: ModelInput) -> int:
    return 1


# ---- turns


def test_turns_come_as_they_ended_and_the_current_one_last() -> None:
    first, second = turn("t1"), turn("t2")
    events = [first[0], message("now", "now"), second[0], message("note", None), *second[1:], *first[1:]]
    found = turns_of(events, "now")
    assert [group[0].id for group in found if isinstance(group[0], Message)] == ["note", "t2", "t1", "now"]


def test_what_is_not_for_the_model_is_left_out() -> None:
    waiting = message("waits", "waits")
    direct = [call("direct", "direct", None), answer("direct", "direct"), end("direct")]
    cut = [message("cut", "cut", "assistant"), end("cut")]
    changed = ContextChanged(context_id="c", title="new")
    assert turns_of([*cut, waiting, *direct, changed, message("now", "now")], "now") == [[message("now", "now")]]


def test_the_current_turn_stays_last_also_when_it_has_ended() -> None:
    assert [group[0] for group in turns_of([*turn("t1"), *turn("t2")], "t1")] == [turn("t2")[0], turn("t1")[0]]


# ---- one turn


def test_a_call_is_followed_by_its_answer_whenever_that_came() -> None:
    steps = [message("u", "t"), call("c1", "t", "a"), call("c2", "t", "a"), answer("c2", "t")]
    events = [*steps, message("a", "t", "assistant"), answer("c1", "t"), message("b", "t", "assistant")]
    assert read(*events) == [user("u"), said("a", "c1", "c2"), paid("c1"), paid("c2"), said("b")]


def test_a_message_without_text_or_calls_says_nothing() -> None:
    assert read(message("u", "t"), message("a", "t", "assistant", "")) == [user("u")]
    assert read(message("u", "t"), message("a", "t", "assistant", [TextPart(text="x")])) == [user("u")]


def test_edited_parameters_are_what_the_model_sees() -> None:
    edit = ToolApproval(context_id="c", turn_id="t", tool_call_id="c1", approved=True, parameters={"amount": 2})
    plain = ToolApproval(context_id="c", turn_id="t", tool_call_id="c2", approved=True)
    events = [message("u", "t"), call("c1", "t", "a"), call("c2", "t", "a"), edit, plain]
    _, step, *_ = read(*events, message("a", "t", "assistant"))
    assert isinstance(step, AssistantInput)
    assert [made.parameters for made in step.calls] == [{"amount": 2}, {"amount": 1}]


@pytest.mark.parametrize(
    ("status", "result", "words"),
    [
        ("success", {"n": 1}, '{"n":1}'),
        ("error", "no such card", "The tool failed. no such card"),
        ("timeout", None, "The tool took too long."),
        ("denied", "too much", "The user did not allow this call. too much"),
        ("cancelled", None, "The call was cancelled."),
        ("interrupted", None, "The call was interrupted; whether it had an effect is not known."),
    ],
)
def test_an_answer_in_words(status: ResponseStatus, result: Any, words: str) -> None:
    asked = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant")]
    answered = read(*asked, answer("c1", "t", result, status))
    assert answered[-1] == ToolResultInput("c1", words, is_error=status != "success")


def test_a_call_without_an_answer_is_answered_so() -> None:
    events = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant")]
    assert read(*events)[-1] == ToolResultInput("c1", "There is no answer.", is_error=True)


# ---- steering


def test_what_was_said_while_a_step_was_written_comes_after_it() -> None:
    events = [message("u", "t"), message("s", "t"), message("a", "t", "assistant")]
    assert read(*events) == [user("u"), said("a"), user("s")]
    assert read(*events, message("b", "t", "assistant")) == [user("u"), said("a"), user("s"), said("b")]


def test_what_was_said_after_a_step_without_calls_began_the_next() -> None:
    events = [message("u", "t"), message("a", "t", "assistant"), message("s", "t"), message("b", "t", "assistant")]
    assert read(*events) == [user("u"), said("a"), user("s"), said("b")]


def test_what_was_said_while_calls_ran_was_read_by_the_next_step() -> None:
    before = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant"), message("s", "t")]
    assert read(*before) == [
        user("u"),
        said("a", "c1"),
        ToolResultInput("c1", "There is no answer.", is_error=True),
        user("s"),
    ]
    after = [answer("c1", "t"), message("late", "t"), message("b", "t", "assistant")]
    assert read(*before, *after) == [user("u"), said("a", "c1"), paid("c1"), user("s"), said("b"), user("late")]


def test_what_was_said_before_the_calls_of_a_step_ended_comes_after_them() -> None:
    step = [message("s", "t"), call("c1", "t", "a"), answer("c1", "t"), message("a", "t", "assistant")]
    events = [message("u", "t"), *step, message("b", "t", "assistant"), message("s2", "t")]
    assert read(*events) == [user("u"), said("a", "c1"), paid("c1"), user("s"), said("b"), user("s2")]


# ---- what fits


def test_the_newest_whole_turns_that_fit_are_given() -> None:
    turns = [turn("t1"), turn("t2"), [message("now", "now")]]
    assert fit(turns, 5, one) == [user("t1"), said("t1a"), user("t2"), said("t2a"), user("now")]
    assert fit(turns, 4, one) == fit(turns, 3, one) == [user("t2"), said("t2a"), user("now")]
    assert fit(turns, 1, one) == [user("now")]


def test_nothing_older_follows_what_did_not_fit() -> None:
    turns = [[message("short", None)], turn("long"), [message("now", "now")]]
    assert fit(turns, 2, one) == [user("now")]


def test_what_the_operator_said_is_always_given_in_its_place() -> None:
    system = [message("rules", None, "system")]
    turns = [turn("t1"), system, turn("t2"), [message("now", "now")]]
    assert fit(turns, 2, one) == [TextInput("system", "rules"), user("now")]
    assert fit(turns, 4, one) == [TextInput("system", "rules"), user("t2"), said("t2a"), user("now")]


def test_a_turn_that_does_not_fit_alone_is_refused() -> None:
    with pytest.raises(TooLong):
        fit([[message("now", "now")]], 0, one)
    with pytest.raises(TooLong):
        fit([[message("rules", None, "system")], [message("now", "now")]], 1, one)


def test_a_turn_that_says_nothing_costs_nothing() -> None:
    silent = [message("silent", "silent", "assistant", "")]
    assert fit([silent, [message("now", "now")]], 1, one) == [user("now")]


@pytest.mark.parametrize("kind", ["text", "parts", "assistant", "result"])
def test_the_estimate_grows_with_the_bytes(kind: Literal["text", "parts", "assistant", "result"]) -> None:
    def item(size: int) -> ModelInput:
        text = "ä" * size
        match kind:
            case "text":
                return TextInput("user", text)
            case "parts":
                return TextInput("user", [ImagePart(mime_type="image/png", data=text)])
            case "assistant":
                return AssistantInput("", (CallInput("c1", "charge", {"text": text}),))
            case "result":
                return ToolResultInput("c1", text, is_error=False)

    assert estimate_tokens(item(4000)) - estimate_tokens(item(0)) == 2000
    assert estimate_tokens(item(0)) >= 8
