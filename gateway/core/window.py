"""Which of a conversation the model is given: whole turns, the newest that fit, and what the operator said.

Turns come in the order in which they ended, and the one that runs comes last, so that a call and its answer are
never torn apart by a message that arrived between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse, TurnEnd

__all__ = ["TooLong", "estimate_tokens", "fit", "turns_of"]


class TooLong(Exception):
    """The running turn alone does not fit."""


def turns_of(events: Sequence[DurableEvent], current: str) -> list[list[DurableEvent]]:
    """The events by turn: those that ended, in that order, messages without a turn among them where they were
    stored, and `current` last. Turns that wait, and direct tool calls, are not for the model."""
    open_turns: dict[str, list[DurableEvent]] = {}
    done: list[list[DurableEvent]] = []
    for event in events:
        if event.turn_id is None:
            if isinstance(event, Message):
                done.append([event])
            continue
        open_turns.setdefault(event.turn_id, []).append(event)
        if isinstance(event, TurnEnd) and event.turn_id != current:
            done.append(open_turns.pop(event.turn_id))
    done.append(open_turns.get(current, []))
    # A turn that the page cut begins with something else than what was asked.
    return [turn for turn in done if turn and isinstance(turn[0], Message) and turn[0].role != "assistant"]


def _inputs(turn: Sequence[DurableEvent]) -> list[ModelInput]:
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


def estimate_tokens(item: ModelInput) -> int:
    """A rough count: four bytes a token, and what a message costs besides."""
    if isinstance(item, ToolResultInput):
        return 8 + len(item.content.encode()) // 4
    if isinstance(item, AssistantInput):
        calls = sum(16 + len(call.tool) + len(msgspec.json.encode(call.parameters)) // 4 for call in item.calls)
        return 8 + len(item.content.encode()) // 4 + calls
    return 8 + len(item.content.encode() if isinstance(item.content, str) else msgspec.json.encode(item.content)) // 4


def fit(
    turns: Sequence[Sequence[DurableEvent]], budget: int, count: Callable[[ModelInput], int] = estimate_tokens
) -> list[ModelInput]:
    """The inputs that fit into `budget` tokens: the last turn, then the newest others, whole; turns that begin with a
    system message are kept wherever they stand. Raises TooLong where the last turn and those do not fit."""
    parts = [_inputs(turn) for turn in turns]
    costs = [sum(count(item) for item in part) for part in parts]
    last = len(parts) - 1
    kept = {
        place
        for place, part in enumerate(parts)
        if place == last or (part and isinstance(part[0], TextInput) and part[0].role == "system")
    }
    left = budget - sum(costs[place] for place in kept)
    if left < 0:
        raise TooLong
    for place in range(last - 1, -1, -1):
        if place in kept:
            continue
        if costs[place] > left:
            break
        left -= costs[place]
        kept.add(place)
    return [item for place in sorted(kept) for item in parts[place]]
