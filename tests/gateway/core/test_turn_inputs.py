from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.inputs import AssistantInput, ModelInput, ToolResultInput
from gateway.core.turn_inputs import inputs_of
from protocol.frames import DurableEvent, ImagePart, ResponseStatus, TextPart, ToolApproval, ToolCall
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


def test_an_answer_with_images() -> None:
    data = "iVBORw0KGgo="
    parts = [{"type": "text", "text": "see"}, {"type": "image", "mime_type": "image/png", "data": data}]
    asked = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant")]
    image = ImagePart(mime_type="image/png", data=data)
    assert read(*asked, answer("c1", "t", {"content": parts}))[-1] == ToolResultInput("c1", "see", False, (image,))
    # A failure is in words: providers take no images in one.
    failed = read(*asked, answer("c1", "t", {"content": parts}, "error"))[-1]
    assert isinstance(failed, ToolResultInput)
    assert failed.images == ()


def test_a_call_without_an_answer_is_answered_so() -> None:
    events = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant")]
    assert read(*events)[-1] == ToolResultInput("c1", "There is no answer.", is_error=True)


# ---- steering


def test_what_a_step_was_not_given_comes_after_it() -> None:
    events = [message("u", "t"), message("s", "t"), message("a", "t", "assistant")]
    assert read(*events) == [user("u"), said("a"), user("s")]
    assert read(*events, message("b", "t", "assistant", reads="s")) == [user("u"), said("a"), user("s"), said("b")]


def test_what_was_said_just_before_a_step_began_is_given_to_it_or_to_the_next() -> None:
    before = [message("u", "t"), call("c1", "t", "a"), message("a", "t", "assistant"), answer("c1", "t")]
    for_b = [*before, message("s", "t"), message("b", "t", "assistant", reads="s")]
    assert read(*for_b) == [user("u"), said("a", "c1"), paid("c1"), user("s"), said("b")]
    not_for_b = [*before, message("s", "t"), message("b", "t", "assistant")]
    assert read(*not_for_b) == [user("u"), said("a", "c1"), paid("c1"), said("b"), user("s")]


def test_a_step_is_given_what_was_said_up_to_a_message_and_nothing_later() -> None:
    events = [message("u", "t"), message("s", "t"), message("a", "t", "assistant"), message("s2", "t")]
    assert inputs_of(events, "s") == [user("u"), said("a"), user("s")]
    assert inputs_of(events, None) == [user("u"), said("a")]


def test_a_direct_call_says_nothing() -> None:
    assert read(ToolCall(**_DIRECT), answer("c1", "t")) == []


_DIRECT: Any = {
    "context_id": "c",
    "turn_id": "c1",
    "id": "c1",
    "tool": "pay",
    "parameters": {},
    "timestamp": "now",
    "runs_on": "server",
}


@given(st.lists(st.sampled_from(["say", "call", "answer", "step"]), max_size=20), st.data())
def test_what_a_step_is_given_begins_with_what_the_one_before_was_given(doings: list[str], data: st.DataObject) -> None:
    """As a runner does it: a step is given what its runner has heard of, which may be less than what is stored."""
    events: list[DurableEvent] = [message("u", "t")]
    steering: list[str] = []
    heard = 0
    given: list[ModelInput] = []
    step = 0
    calls: list[str] = []
    for doing in doings:
        if doing == "say":
            steering.append(f"s{len(steering)}")
            events.append(message(steering[-1], "t"))
        elif doing == "call":
            calls.append(f"c{step}_{len(calls)}")
            events.append(call(calls[-1], "t", f"a{step}"))
        elif doing == "answer" and calls:
            events.append(answer(calls.pop(), "t"))
        elif doing == "step":
            heard = data.draw(st.integers(heard, len(steering)))
            reads = steering[heard - 1] if heard else None
            # Answers that are not there yet are told so, and change: a step begins when all are there.
            events += [answer(name, "t") for name in calls]
            calls.clear()
            now = inputs_of(events, reads)
            assert now[: len(given)] == given
            given = now
            events.append(message(f"a{step}", "t", "assistant", reads=reads))
            step += 1
    assert inputs_of(events, steering[-1] if steering else None) == inputs_of(events)
