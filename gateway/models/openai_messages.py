"""A model request as the body of an OpenAI chat completion."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.models.port import AssistantInput, ModelInput, ModelRequest, TextInput
from protocol.frames import Content, ImagePart, ResourcePart, ToolSpec

__all__ = ["chat_body"]

Json = dict[str, Any]


def chat_body(request: ModelRequest) -> Json:
    """`messages` and, where there are any, `tools` (OpenAI API reference, "Create chat completion")."""
    body: Json = {"messages": [_message(item) for item in request.inputs]}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body


def _message(item: ModelInput) -> Json:
    if isinstance(item, TextInput):
        return {"role": item.role, "content": _content(item.content)}
    if isinstance(item, AssistantInput):
        message: Json = {"role": "assistant", "content": item.content}
        if item.calls:
            message["content"] = item.content or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.tool, "arguments": msgspec.json.encode(call.parameters).decode()},
                }
                for call in item.calls
            ]
        return message
    content = f"Error: {item.content}" if item.is_error else item.content
    return {"role": "tool", "tool_call_id": item.call_id, "content": content}


def _content(content: Content) -> str | list[Json]:
    """One string unless there is an image: many compatible servers take nothing else."""
    if isinstance(content, str):
        return content
    parts: list[Json] = []
    for part in content:
        if isinstance(part, ImagePart):
            parts.append({"type": "image_url", "image_url": {"url": f"data:{part.mime_type};base64,{part.data}"}})
        else:
            parts.append({"type": "text", "text": part.uri if isinstance(part, ResourcePart) else part.text})
    if any(part["type"] == "image_url" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def _tool(tool: ToolSpec) -> Json:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
    }
