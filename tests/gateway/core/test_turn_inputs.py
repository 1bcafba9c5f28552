from __future__ import annotations

from typing import Any

import pytest

from gateway.core.inputs import AssistantInput, ModelInput, ToolResultInput
from gateway.core.turn_inputs import inputs_of
from protocol.frames import DurableEvent, ResponseStatus, TextPart, ToolApproval
from tests.gateway.core.conversations import answer, call, message, paid, said, user


def read(*events: DurableEvent) -> list[ModelInput]:
    """What the model is given of one turn."""
    return inputs_of(events)


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
