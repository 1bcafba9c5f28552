"""What a model is asked for behind the user's back: a title, a summary of what will not fit; and what of a
conversation is to be summarised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput
from gateway.core.thread import Node
from protocol.frames import Content, ImagePart, ResourcePart

__all__ = ["MAX_TITLE", "clean_title", "due", "summary_prompt", "title_prompt", "transcript"]

MAX_TITLE: Final = 80

_DUE = 0.6  # so much of the budget is not covered by a summary: time to make one, while the rest still fits
_LEFT = 0.3  # so much of it stays as it is
_AT_ONCE = 0.5  # so much is summarised at a time
_SHOWN = 4_000  # characters of one message or result that a title or summary is made of
_SHOWN_AT_LEAST = 60
_TITLE_CHARACTERS = 8_000

_TITLE = (
    "Write a title for the conversation below: at most six words, in the language of the conversation, without quotes "
    "and without a full stop at the end. Answer with the title alone."
)
_SUMMARY = (
    "Summarise the conversation below for an assistant that goes on with it and will not see it: who wants what, "
    "facts, names, numbers and decisions, results of tools, and what is still open. Write in the language of the "
    "conversation, at most {words} words. Answer with the summary alone."
)
_SPACE = re.compile(r"\s+")


def title_prompt(turns: Sequence[Node]) -> list[ModelInput]:
    """`turns` oldest first."""
    return [TextInput("system", _TITLE), TextInput("user", transcript(turns, _TITLE_CHARACTERS))]


def clean_title(text: str) -> str | None:
    """A model's answer as a title; None where there is nothing of one."""
    title = _SPACE.sub(" ", text).strip().strip("\"'“”„«»`*#").strip()
    if len(title) > MAX_TITLE:
        title = title[: MAX_TITLE - 1].rstrip() + "…"
    return title or None


def summary_prompt(before: str | None, turns: Sequence[Node], words: int, characters: int) -> list[ModelInput]:
    """`before` is the summary of what came before `turns`, which come oldest first and are told in so many
    `characters` at most."""
    told = f"[Summary of what was said before]\n{before}\n\n" if before is not None else ""
    return [TextInput("system", _SUMMARY.format(words=words)), TextInput("user", told + transcript(turns, characters))]


def due(path: Iterable[Node], covered: str | None, budget: float, cost: Callable[[Node], float]) -> list[Node]:
    """The turns to summarise next, oldest first, whole; none where there is room. `path` comes newest first and ends
    with the turn `covered`, the last that the summary before covers."""
    open_turns: list[Node] = []
    for node in path:
        if node.id == covered:
            break
        open_turns.append(node)
    costs = [cost(node) for node in open_turns]
    if sum(costs) <= budget * _DUE:
        return []
    left = 0.0
    kept = 0
    for price in costs:
        if kept and left + price > budget * _LEFT:
            break
        left += price
        kept += 1
    wanted: list[Node] = []
    total = 0.0
    for node, price in zip(open_turns[: kept - 1 : -1], costs[: kept - 1 : -1], strict=True):
        if wanted and total + price > budget * _AT_ONCE:
            break
        total += price
        wanted.append(node)
    return wanted


def transcript(turns: Sequence[Node], characters: int) -> str:
    """A conversation in plain text, calls with their answers; where it is too long, each part of it shortened, and
    at last its middle left out."""
    shown = _SHOWN
    while True:
        text = "\n".join(_lines(turns, shown))
        if len(text) <= characters:
            return text
        if shown <= _SHOWN_AT_LEAST:
            half = max(0, characters // 2 - 10)
            return f"{text[:half]}\n[…]\n{text[len(text) - half :]}"
        shown //= 2


def _lines(turns: Sequence[Node], shown: int) -> list[str]:
    lines: list[str] = []
    for node in turns:
        calls: dict[str, CallInput] = {}
        for item in node.inputs:
            if isinstance(item, TextInput):
                who = "" if item.resource is not None else f"{item.role.capitalize()}: "
                lines.append(who + _shown(_words(item.content), shown))
            elif isinstance(item, AssistantInput):
                if item.content:
                    lines.append(f"Assistant: {_shown(item.content, shown)}")
                calls.update({call.id: call for call in item.calls})
            else:
                call = calls[item.call_id]
                asked = msgspec.json.encode(call.parameters).decode()
                lines.append(f"Tool {call.tool} {_shown(asked, shown)} answered: {_shown(item.content, shown)}")
    return lines


def _words(content: Content) -> str:
    if isinstance(content, str):
        return content
    words: list[str] = []
    for part in content:
        if isinstance(part, ImagePart):
            words.append("[an image]")
        else:
            words.append(f"[{part.uri}]" if isinstance(part, ResourcePart) else part.text)
    return " ".join(words)


def _shown(text: str, shown: int) -> str:
    return text if len(text) <= shown else f"{text[:shown]} […]"
