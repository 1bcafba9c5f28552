"""The script of a fake OpenAI server: replies, made of steps, with the shapes that real servers send.

The shapes of tool calls are those recorded from OpenAI, vLLM, llama.cpp and Ollama; "unindexed" stands for servers
that send whole calls without an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.testing.script_steps import CommonStep, Cut, Delay, Hold, Raw, ScriptedReply, Stall, split_words

__all__ = [
    "CallFragment",
    "Chunk",
    "Cut",
    "Delay",
    "Done",
    "Finish",
    "Hold",
    "Raw",
    "Reasoning",
    "Reply",
    "Shape",
    "Stall",
    "Step",
    "Text",
    "Usage",
    "call_steps",
    "words",
]

Shape = Literal["openai", "vllm", "llama.cpp", "ollama", "unindexed"]


class Text(Struct, frozen=True):
    """One chunk with a piece of the answer."""

    text: str


class Reasoning(Struct, frozen=True):
    """One chunk with a piece of reasoning, in the field that the server uses for it."""

    text: str
    field: Literal["reasoning_content", "reasoning"] = "reasoning_content"


class CallFragment(Struct, frozen=True, kw_only=True):
    """One chunk with a part of a tool call; what is None is left out."""

    index: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class Finish(Struct, frozen=True):
    """The chunk with the finish reason."""

    reason: str = "stop"


class Usage(Struct, frozen=True):
    """The chunk with the token counts and no choices; sent only where the request asks for it."""

    prompt_tokens: int = 10
    completion_tokens: int = 5
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Chunk(Struct, frozen=True):
    """Any JSON as one event of the stream."""

    value: Any


class Done(Struct, frozen=True):
    """`data: [DONE]`"""


Step = Text | Reasoning | CallFragment | Finish | Usage | Chunk | Done | CommonStep


class Reply(ScriptedReply[Step], kw_only=True):
    """One answer of the server (ScriptedReply), with ready-made ones."""

    @staticmethod
    def text(text: str, *, reason: str = "stop", usage: Usage | None = None) -> Reply:
        """A whole answer, a chunk a word."""
        return Reply(steps=[*words(text), Finish(reason), usage or Usage(completion_tokens=len(text.split())), Done()])

    @staticmethod
    def calls(*calls: tuple[str, dict[str, Any]], shape: Shape = "openai", before: str = "") -> Reply:
        """A whole answer that calls tools, by name and arguments, perhaps after some text."""
        return Reply(steps=[*words(before), *call_steps(shape, calls), Finish("tool_calls"), Usage(), Done()])

    @staticmethod
    def failure(status: int, code: str = "", message: str = "", *, retry_after: str | None = None) -> Reply:
        """An error response with OpenAI's body."""
        return Reply(
            status=status,
            content_type="application/json",
            headers={} if retry_after is None else {"retry-after": retry_after},
            body=msgspec.json.encode({"error": {"message": message, "type": code, "param": None, "code": code}}),
        )


def words(text: str) -> list[Text]:
    """A step a word; together they are exactly `text`."""
    return [Text(word) for word in split_words(text)]


def call_steps(shape: Shape, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[CallFragment]:
    """The fragments in which such a server streams these calls, given as name and arguments."""
    steps: list[CallFragment] = []
    for index, (name, arguments) in enumerate(calls):
        written = msgspec.json.encode(arguments).decode()
        parts = [written[start : start + 5] for start in range(0, len(written), 5)]
        rest = [CallFragment(index=index, arguments=part) for part in parts]
        if shape == "openai":
            steps += [CallFragment(index=index, id=f"call_{index:024d}", name=name, arguments=""), *rest]
        elif shape == "vllm":
            steps += [CallFragment(index=index, id=f"chatcmpl-tool-{index:032d}", name=name), *rest]
        elif shape == "llama.cpp":
            steps += [CallFragment(index=index, id=f"{index:032d}", name=name, arguments=parts[0]), *rest[1:]]
        elif shape == "ollama":
            steps += [CallFragment(index=index, id=f"call_{index:08d}", name=name, arguments=written)]
        else:
            steps += [CallFragment(name=name, arguments=written)]
    return steps
