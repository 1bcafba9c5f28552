"""One turn's events as a model reads them: what was said, the calls with their answers, what was said meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.core.images import shown
from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput
from gateway.core.resource_inputs import said_with_resources
from gateway.core.resources import is_read
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse

__all__ = ["EVERYTHING", "FAILURES", "inputs_of"]

EVERYTHING: Final = ""
"""No message has this id: all that was said is read."""

FAILURES: Final[Mapping[str, str]] = {
    "error": "The tool failed.",
    "timeout": "The tool took too long.",
    "denied": "The user did not allow this call.",
    "cancelled": "The call was cancelled.",
    "interrupted": "The call was interrupted; whether it had an effect is not known.",
}
"""What whoever called is told of an answer by its status, but for "success"."""


def inputs_of(turn: Sequence[DurableEvent], reads: str | None = EVERYTHING) -> list[ModelInput]:
    """One turn as the model reads it: each step with its calls and their answers, after what was said before it and
    what was read for that. What tools asked their users is no part of it.

    A step's message tells the last steering message that the step was given; what was said later is given to the next
    one, and stands before that. So what a step is given begins with what the one before was given. `reads` is the last
    one that the step which is asked for now is given (None: none).
    """
    calls: dict[str | None, list[ToolCall]] = {}
    readings: list[ToolCall] = []
    edits: dict[str, dict[str, Any]] = {}
    answers: dict[str, ToolResponse] = {}
    messages: list[Message] = []
    steps: list[Message] = []
    for event in turn:
        if isinstance(event, ToolCall) and is_read(event):
            readings.append(event)
        elif isinstance(event, ToolCall):
            calls.setdefault(event.message_id, []).append(event)
        elif isinstance(event, ToolResponse):
            answers[event.tool_call_id] = event
        elif isinstance(event, ToolApproval) and event.parameters is not None:
            edits[event.tool_call_id] = event.parameters
        elif isinstance(event, Message) and event.role != "assistant":
            messages.append(event)
        elif isinstance(event, Message):
            steps.append(event)
    said = said_with_resources(messages, readings, answers)
    inputs: list[ModelInput] = _told(said[:1])
    given = 1
    for step in steps:
        upto = _place(said, step.reads)
        inputs += _told(said[given:upto])
        given = max(given, upto)
        made = calls.get(step.id, [])
        text = step.content if isinstance(step.content, str) else ""
        if text or made:
            inputs.append(
                AssistantInput(text, tuple(CallInput(c.id, c.tool, edits.get(c.id, c.parameters)) for c in made))
            )
        inputs.extend(_result(call, answers.get(call.id)) for call in made)
    upto = len(said) if reads == EVERYTHING else _place(said, reads)
    return inputs + _told(said[given:upto])


def _told(said: Sequence[tuple[str, list[TextInput]]]) -> list[ModelInput]:
    return [text for _, texts in said for text in texts]


def _place(said: Sequence[tuple[str, list[TextInput]]], reads: str | None) -> int:
    """How many of the messages stand before a step that was given those up to `reads`."""
    return next((place for place, (id, _) in enumerate(said, 1) if id == reads), 1)


def _result(call: ToolCall, answer: ToolResponse | None) -> ToolResultInput:
    if answer is None:
        return ToolResultInput(call.id, "There is no answer.", is_error=True)
    if answer.status == "success":
        seen = shown(answer.result)
        if seen is not None:
            return ToolResultInput(call.id, seen.text, is_error=False, images=seen.images)
        return ToolResultInput(call.id, _text(answer.result), is_error=False)
    words = FAILURES[answer.status]
    detail = f" {_text(answer.result)}" if answer.result is not None else ""
    return ToolResultInput(call.id, words + detail, is_error=True)


def _text(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()
