"""What the demo model answers: a pure function of the conversation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.models.port import (
    AssistantInput,
    CallInput,
    CallReady,
    ModelInput,
    ModelRequest,
    TextInput,
    ToolResultInput,
)
from protocol.content import words_of

__all__ = ["DEMO_NOTICE", "MAX_WORDS", "script"]

DEMO_NOTICE = "This is the demo model."
MAX_WORDS = 1_000_000

_NUMBER = r"[+-]?(?:[0-9]{1,15}(?:\.[0-9]{1,15})?)"
_CALC = re.compile(rf"calc\s+({_NUMBER})\s*([-+*/^])\s*({_NUMBER})", re.IGNORECASE)
_COUNT = re.compile(r"count\s+([0-9]{1,6})", re.IGNORECASE)
_CALL = re.compile(r"call\s+(\S{1,128})(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)
_NEXT_CALL = re.compile(r"\n\s*(?=call\s)", re.IGNORECASE)
_LONG = re.compile(r"long\s+([0-9]{1,9})", re.IGNORECASE)
_OPERATIONS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "^": "power"}
_SIGNS = {name: sign for sign, name in _OPERATIONS.items()}


class _Result(msgspec.Struct):
    result: int | float | str


def script(request: ModelRequest) -> Iterator[str | CallReady]:
    """The text runs and calls of the next step, in order.

    What came after the model's own last words decides: the answers to its calls are reported, then the last thing that
    the user said, a first question or a steering message alike, is carried out or echoed.
    """
    heard, calls = _unread(request.inputs)
    tools = frozenset(tool.name for tool in request.tools)
    results = [item for item in heard if isinstance(item, ToolResultInput)]
    said = [item for item in heard if isinstance(item, TextInput) and item.role == "user"]
    for number, result in enumerate(results):
        yield (" " if number else "") + _report(calls.get(result.call_id), result)
    if said:
        if results:
            yield " "
        yield from _answer(words_of(said[-1].content).strip(), tools)
    elif not results:
        yield f"{DEMO_NOTICE} Nothing new was said."


def _unread(inputs: Sequence[ModelInput]) -> tuple[list[ModelInput], dict[str, CallInput]]:
    """What came after the model's last message, and the calls of that message by id."""
    heard: list[ModelInput] = []
    for item in reversed(inputs):
        if isinstance(item, AssistantInput):
            return heard[::-1], {call.id: call for call in item.calls}
        heard.append(item)
    return heard[::-1], {}


def _answer(text: str, tools: frozenset[str]) -> Iterator[str | CallReady]:
    if found := _CALC.fullmatch(text):
        a, sign, b = found.groups()
        yield _call("calculator", {"operation": _OPERATIONS[sign], "a": _number(a), "b": _number(b)}, tools)
    elif found := _COUNT.fullmatch(text):
        yield _call("countdown", {"count": int(found[1])}, tools)
    elif found := _LONG.fullmatch(text):
        for number in range(1, min(int(found[1]), MAX_WORDS) + 1):
            yield f"{number} "
    elif text.lower() == "both":
        yield f"{DEMO_NOTICE} I start with a sum. "
        yield _call("calculator", {"operation": "multiply", "a": 6, "b": 7}, tools)
        yield " While it runs I count down as well. "
        yield _call("countdown", {"count": 3}, tools)
        yield " And while both are busy I go on talking."
    elif _CALL.fullmatch(text):
        # A line each, all in one step.
        for found in filter(None, map(_CALL.fullmatch, _NEXT_CALL.split(text))):
            yield _named_call(found[1], (found[2] or "{}").strip(), tools)
    else:
        yield f"{DEMO_NOTICE} You said: {text}"


def _named_call(name: str, written: str, tools: frozenset[str]) -> str | CallReady:
    try:
        parameters = msgspec.json.decode(written, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return f'{DEMO_NOTICE} The parameters must be a JSON object, as in: call {name} {{"key": 1}}'
    return _call(name, parameters, tools)


def _call(name: str, parameters: dict[str, Any], tools: frozenset[str]) -> str | CallReady:
    if name in tools:
        return CallReady(name, parameters)
    return f"{DEMO_NOTICE} I have no tool named {name} here."


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _report(call: CallInput | None, result: ToolResultInput) -> str:
    name = call.tool if call else "The tool"
    if result.is_error:
        return f"{name} failed: {result.content}"
    if call and call.tool == "calculator":
        sign = _SIGNS.get(str(call.parameters.get("operation")), "?")
        a, b = call.parameters.get("a"), call.parameters.get("b")
        return f"{_plain(a)} {sign} {_plain(b)} = {_value(result.content)}"
    return " ".join([f"{name} answered: {result.content}", *(f"[{image.mime_type}]" for image in result.images)])


def _value(content: str) -> str:
    """The number in a calculator's answer, be it bare or the `result` of an object; else the answer as it stands."""
    try:
        value = msgspec.json.decode(content, type=int | float | _Result)
    except msgspec.DecodeError:
        return content
    return _plain(value.result if isinstance(value, _Result) else value)


def _plain(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
