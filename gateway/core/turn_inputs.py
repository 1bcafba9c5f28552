"""One turn's events as a model reads them: what was said, the calls with their answers, what was said meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse

__all__ = ["inputs_of"]


def inputs_of(turn: Sequence[DurableEvent]) -> list[ModelInput]:
    """One turn as the model reads it: each step with its calls, then their answers, then what was said meanwhile.

    A steering message is read by the step after the one during which it was stored, so it stands between the two. A
    step begins when the calls of the one before are answered or, where that one made none, when somebody steered.
    """
    calls: dict[str | None, list[ToolCall]] = {}
    edits: dict[str, dict[str, Any]] = {}
    answers: dict[str, ToolResponse] = {}
    for event in turn:
        if isinstance(event, ToolCall):
            calls.setdefault(event.message_id, []).append(event)
        elif isinstance(event, ToolResponse):
            answers[event.tool_call_id] = event
        elif isinstance(event, ToolApproval) and event.parameters is not None:
            edits[event.tool_call_id] = event.parameters
    inputs: list[ModelInput] = []
    meanwhile: list[ModelInput] = []
    answered: set[str] = set()
    waiting: set[str] = set()  # calls of the step that was closed last, not answered yet
    begins = True  # whether what is said now begins a step
    for event in turn:
        if isinstance(event, ToolResponse):
            answered.add(event.tool_call_id)
            if waiting and waiting <= answered:
                waiting.clear()
                inputs += meanwhile
                meanwhile.clear()
        if not isinstance(event, Message):
            continue
        if event.role != "assistant":
            said = TextInput("system" if event.role == "system" else "user", event.content)
            (inputs if begins else meanwhile).append(said)
            begins = False
            continue
        made = calls.get(event.id, [])
        text = event.content if isinstance(event.content, str) else ""
        if text or made:
            inputs.append(
                AssistantInput(text, tuple(CallInput(c.id, c.tool, edits.get(c.id, c.parameters)) for c in made))
            )
        inputs.extend(_result(call, answers.get(call.id)) for call in made)
        waiting = {call.id for call in made} - answered
        begins = not made and not meanwhile
        if not waiting:
            inputs += meanwhile
            meanwhile.clear()
    return inputs + meanwhile


def _result(call: ToolCall, answer: ToolResponse | None) -> ToolResultInput:
    if answer is None:
        return ToolResultInput(call.id, "There is no answer.", is_error=True)
    if answer.status == "success":
        return ToolResultInput(call.id, _text(answer.result), is_error=False)
    words = {
        "timeout": "The tool took too long.",
        "denied": "The user did not allow this call.",
        "cancelled": "The call was cancelled.",
        "interrupted": "The call was interrupted; whether it had an effect is not known.",
    }.get(answer.status, "The tool failed.")
    detail = f" {_text(answer.result)}" if answer.result is not None else ""
    return ToolResultInput(call.id, words + detail, is_error=True)


def _text(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()
