"""A model request as the body of Anthropic's Messages API; pure.

What the API wants, and a conversation of ours need not have: the first and the last message are a user's, roles
alternate, the results of all calls stand at the beginning of the user message after them, no text is empty, ids of
calls have no dots and colons, and names of parameters nothing that is rare. Tools of which that is not so are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from gateway.models.port import AssistantInput, ModelRequest, ToolResultInput
from protocol.frames import Content, ImagePart, ResourcePart, TextPart, ToolSpec

__all__ = ["GO_ON", "OMITTED", "messages_body"]

Json = dict[str, Any]

OMITTED: Final = "(What was said before is left out.)"
"""Said by the user where a conversation begins with the model."""
GO_ON: Final = "(Go on.)"
"""Said by the user where a conversation ends with the model, which newer models refuse to continue."""

_CACHE: Final = {"type": "ephemeral"}
_IMAGES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PARAMETER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NOT_AT_THE_TOP: Final = ("allOf", "anyOf", "oneOf")


def messages_body(
    request: ModelRequest,
    *,
    steps: Mapping[int, Sequence[Json]] | None = None,
    system_in_place: bool = True,
    cache: bool = True,
) -> Json:
    """`messages` and, where there are any, `system` and `tools` (Anthropic API reference, "Create a message").

    `steps` are blocks to send in place of the AssistantInput at that index, with its calls in the same order.

    What the operator says first becomes `system`. What is said later follows the user's turn it belongs to, with the
    role "system", so that the prefix which the provider has cached stays as it is; with `system_in_place` False it is
    appended to `system`, for models that know no such role. An image in it is left out.

    `cache` marks the tools, `system`, the last user message and the one that began the turn before it as ends of
    prefixes to be cached: the next request repeats all of these.
    """
    conversation = _Conversation(system_in_place)
    for index, item in enumerate(request.inputs):
        if isinstance(item, AssistantInput):
            conversation.assistant(_assistant(item, (steps or {}).get(index)))
        elif isinstance(item, ToolResultInput):
            conversation.result(_result(item))
        elif item.role == "system":
            conversation.system_said([block for block in _blocks(item.content) if block["type"] == "text"])
        else:
            conversation.user(_blocks(item.content))
    conversation.close()
    body: Json = {"messages": conversation.messages}
    if conversation.system:
        body["system"] = conversation.system
    if request.tools:
        # The order in which tools were registered differs from one session to the next.
        tools = [_tool(tool) for tool in sorted(request.tools, key=lambda tool: tool.name) if _is_tool(tool)]
        body.update({"tools": tools} if tools else {})
    if cache:
        _mark(body)
    return body


class _Conversation:
    """Messages that alternate, and what is said to the model by its operator."""

    def __init__(self, system_in_place: bool) -> None:
        self.messages: list[Json] = []
        self.system: list[Json] = []
        self._system_in_place = system_in_place
        self._waiting: list[Json] = []  # for the end of the user's turn

    @property
    def _role(self) -> str | None:
        return self.messages[-1]["role"] if self.messages else None

    def user(self, blocks: Sequence[Json]) -> None:
        if blocks:
            self._open("user").extend(blocks)

    def result(self, block: Json) -> None:
        content = self._open("user")
        results = sum(1 for other in content if other["type"] == "tool_result")
        content.insert(results, block)

    def assistant(self, blocks: Sequence[Json]) -> None:
        if not blocks:
            return
        if not self.messages:
            self.user([_text(OMITTED)])
        self._end_turn()
        self._open("assistant").extend(blocks)

    def system_said(self, blocks: Sequence[Json]) -> None:
        (self._waiting if self.messages and self._system_in_place else self.system).extend(blocks)

    def close(self) -> None:
        if not self.messages:
            self.user([_text(OMITTED)])
        elif self._role == "assistant":
            self.user([_text(GO_ON)])
        self._end_turn()

    def _end_turn(self) -> None:
        # The API takes a system message only right after a user's.
        if self._waiting and self._role == "user":
            self.messages.append({"role": "system", "content": self._waiting})
            self._waiting = []

    def _open(self, role: str) -> list[Json]:
        if self._role != role:
            self.messages.append({"role": role, "content": []})
        return self.messages[-1]["content"]


def _assistant(item: AssistantInput, blocks: Sequence[Json] | None) -> list[Json]:
    if blocks is not None:
        ids = iter(item.calls)
        return [{**block, "id": _call_id(next(ids).id)} if block["type"] == "tool_use" else block for block in blocks]
    said = [_text(item.content)] if item.content.strip() else []
    return said + [
        {"type": "tool_use", "id": _call_id(call.id), "name": call.tool, "input": call.parameters}
        for call in item.calls
    ]


def _result(item: ToolResultInput) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": _call_id(item.call_id)}
    if item.images:
        block["content"] = [*_blocks(item.content), *map(_part, item.images)]
    elif item.content.strip():
        block["content"] = item.content
    if item.is_error:
        block["is_error"] = True
    return block


def _blocks(content: Content) -> list[Json]:
    if isinstance(content, str):
        return [_text(content)] if content.strip() else []
    return [_part(part) for part in content if not isinstance(part, TextPart) or part.text.strip()]


def _part(part: TextPart | ImagePart | ResourcePart) -> Json:
    if isinstance(part, ImagePart):
        kind = "image/jpeg" if part.mime_type == "image/jpg" else part.mime_type
        if kind not in _IMAGES:
            # The API would refuse this request, and all later ones of the conversation.
            return _text(f"(An image of the type {kind}, which this model can't be shown.)")
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": part.data}}
    return _text(part.uri if isinstance(part, ResourcePart) else part.text)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _is_tool(tool: ToolSpec) -> bool:
    """Whether the API takes its parameters: for one name that it does not, it refuses every request."""
    properties: Any = tool.parameters.get("properties", {})
    return isinstance(properties, dict) and all(map(_PARAMETER.fullmatch, cast("Json", properties)))


def _tool(tool: ToolSpec) -> Json:
    schema = {key: value for key, value in tool.parameters.items() if key not in _NOT_AT_THE_TOP}
    named: Json = {"name": tool.name, "input_schema": {"type": "object", **schema}}
    return {**named, "description": tool.description} if tool.description else named


def _call_id(id: str) -> str:
    if _CALL_ID.fullmatch(id):
        return id
    return f"call_{hashlib.sha256(id.encode()).hexdigest()[:32]}"


def _mark(body: Json) -> None:
    marked: list[Json] = [body[part][-1] for part in ("tools", "system") if part in body]
    *before, last = [message["content"] for message in body["messages"] if message["role"] == "user"]
    marked.append(last[-1])
    # Between the two there may be more blocks than the provider looks back over for what it has cached.
    for content in reversed(before):
        if content[-1]["type"] != "tool_result":
            marked.append(content[-1])
            break
    for block in marked:
        block["cache_control"] = _CACHE
