"""What Anthropic's API demands of a request, as far as a client can get it wrong; pure.

The words are those of the API's own `invalid_request_error`s, shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from gateway.testing.anthropic_script import sign

__all__ = ["objections"]

Json = dict[str, Any]

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_MAX_MARKS = 4


def objections(body: Json, *, system_role: bool = True) -> Iterator[str]:
    """All that is wrong with the body of a request. `system_role` says that the model takes system messages among the
    others, as those since Opus 4.8 do."""
    for field in ("model", "max_tokens", "messages"):
        if field not in body:
            yield f"{field}: Field required"
    messages = cast("list[Json]", body.get("messages", []))
    yield from _system(body)
    yield from _tools(body)
    yield from _roles(messages, system_role=system_role)
    yield from _contents(messages)
    yield from _calls(messages)
    yield from _thinking(body, messages)
    marks = len(list(_marked(body)))
    if marks > _MAX_MARKS:
        yield f"A maximum of {_MAX_MARKS} blocks with cache_control may be provided. Found {marks}."


def _system(body: Json) -> Iterator[str]:
    system: Any = body.get("system", [])
    if isinstance(system, str):
        return
    for block in cast("list[Json]", system):
        if block["type"] != "text":
            yield f"system: Input should be 'text', but found '{block['type']}'"
        elif not block["text"]:
            yield "system: text content blocks must be non-empty"


def _tools(body: Json) -> Iterator[str]:
    names: set[str] = set()
    for place, tool in enumerate(cast("list[Json]", body.get("tools", []))):
        if not _NAME.fullmatch(tool["name"]):
            yield f"tools.{place}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        if tool["name"] in names:
            yield "tools: Tool names must be unique."
        names.add(tool["name"])
        schema: Json = tool.get("input_schema", {})
        if schema.get("type") != "object":
            yield f"tools.{place}.custom.input_schema.type: Input should be 'object'"
        if not all(map(_PROPERTY.fullmatch, schema.get("properties", {}))):
            yield (
                f"tools.{place}.custom.input_schema.properties: Property keys should match pattern "
                "'^[a-zA-Z0-9_.-]{1,64}$'"
            )
        if schema.keys() & {"oneOf", "allOf", "anyOf"}:
            yield (
                f"tools.{place}.custom.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top "
                "level"
            )


def _roles(messages: list[Json], *, system_role: bool) -> Iterator[str]:
    if not messages:
        yield "messages: at least one message is required"
        return
    if messages[0]["role"] != "user":
        yield 'messages: first message must use the "user" role'
    if messages[-1]["role"] == "assistant":
        yield "This model does not support assistant message prefill. The conversation must end with a user message."
    before: str | None = None
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            if not system_role:
                yield "role 'system' is not supported on this model"
            elif before != "user":
                yield f"messages.{place}: a system message must immediately follow a user message"
        elif role not in ("user", "assistant"):
            yield f'messages: Unexpected role "{role}".'
        elif role == before or (role == "user" and before == "system"):
            yield f'messages: roles must alternate between "user" and "assistant", but found multiple "{role}" in a row'
        before = role


def _contents(messages: list[Json]) -> Iterator[str]:
    for place, message in enumerate(messages):
        if not message["content"]:
            yield f"messages.{place}: all messages must have non-empty content"
        for block in _blocks(message):
            if block["type"] == "text" and not block["text"].strip():
                yield f"messages.{place}: text content blocks must contain non-whitespace text"
            if block["type"] == "image":
                yield from _image(place, block)
            if block["type"] == "tool_result":
                yield from _result(place, block)
            if "thinking" in block["type"] and "cache_control" in block:
                yield f"messages.{place}: cache_control cannot be set for thinking blocks"


def _image(place: int, block: Json) -> Iterator[str]:
    if block["source"]["media_type"] not in _IMAGES:
        yield f"messages.{place}.image.source.base64.media_type: Input should be one of {_IMAGES}"


def _result(place: int, block: Json) -> Iterator[str]:
    content: Any = block.get("content", [])
    for part in [] if isinstance(content, str) else cast("list[Json]", content):
        if part["type"] not in ("text", "image"):
            yield f"messages.{place}.tool_result.content: Input tag '{part['type']}' found using 'type' does not match"
        elif part["type"] == "image":
            yield from _image(place, part)
        elif not part["text"].strip():
            yield f"messages.{place}: text content blocks must contain non-whitespace text"
        if block.get("is_error") and part["type"] != "text":
            yield f"messages.{place}.tool_result: all content must be type `text` if `is_error` is true"


def _calls(messages: list[Json]) -> Iterator[str]:
    """Each call is answered in the next message, at its beginning, and nothing else is."""
    conversation = [message for message in messages if message["role"] != "system"]
    seen: set[str] = set()
    waiting: list[str] = []
    for place, message in enumerate(conversation):
        blocks = _blocks(message)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if missing := [id for id in waiting if id not in results]:
            yield (
                f"messages.{place - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                + ", ".join(missing)
            )
        for id in results:
            if id not in waiting:
                yield f"messages.{place}: unexpected `tool_use_id` found in `tool_result` blocks: {id}."
        if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            yield f"messages.{place}: `tool_result` blocks must come first in the content"
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for id in waiting:
            if not _ID.fullmatch(id):
                yield f"messages.{place}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            if id in seen:
                yield "messages: `tool_use` ids must be unique"
            seen.add(id)
    if waiting:
        yield f"messages: `tool_use` ids were found without `tool_result` blocks: {', '.join(waiting)}"


def _thinking(body: Json, messages: list[Json]) -> Iterator[str]:
    for place, message in enumerate(messages):
        for block in _blocks(message):
            if block["type"] == "thinking" and block["signature"] != sign(block["thinking"]):
                yield f"messages.{place}: Invalid `signature` in `thinking` block"
    thinking = body.get("thinking", {"type": "disabled"})
    if thinking["type"] != "enabled":
        return
    if thinking["budget_tokens"] < 1024:
        yield "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
    if thinking["budget_tokens"] >= body.get("max_tokens", 0):
        yield "`max_tokens` must be greater than `thinking.budget_tokens`"
    if body.get("temperature", 1) != 1:
        yield "`temperature` may only be set to 1 when thinking is enabled"
    first = _first_of_loop([message for message in messages if message["role"] != "system"])
    if first is not None and "thinking" not in (kind := _blocks(first)[0]["type"]):
        yield (
            f"messages: Expected `thinking` or `redacted_thinking`, but found `{kind}`. When `thinking` is enabled, a "
            "final `assistant` message must start with a thinking block (preceding the lastmost set of `tool_use` and "
            "`tool_result` blocks)."
        )


def _first_of_loop(conversation: list[Json]) -> Json | None:
    """The message with which the running tool loop began; None where none runs."""
    first: Json | None = None
    for said, answer in zip(conversation[-2::-2], conversation[-1::-2], strict=False):
        if said["role"] != "assistant" or not any(block["type"] == "tool_result" for block in _blocks(answer)):
            break
        first = said
    return first


def _marked(body: Json) -> Iterator[Json]:
    system: Any = body.get("system", [])
    for blocks in (
        body.get("tools", []),
        [] if isinstance(system, str) else system,
        *map(_blocks, body.get("messages", [])),
    ):
        yield from (block for block in blocks if "cache_control" in block)


def _blocks(message: Json) -> list[Json]:
    content: Any = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
