"""A model request as the body of an OpenAI chat completion."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.models.port import AssistantInput, ModelRequest, TextInput, ToolResultInput
from protocol.frames import Content, ImagePart, ResourcePart, ToolSpec

__all__ = ["chat_body"]

Json = dict[str, Any]


def chat_body(request: ModelRequest, *, result_images: bool = True) -> Json:
    """`messages` and, where there are any, `tools` (OpenAI API reference, "Create chat completion").

    The answer to a call is text only: the images of results follow in a user's message after all answers of the step.
    With `result_images` False there is none, and the model is told so.
    """
    body: Json = {"messages": _messages(request, result_images)}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body


def _messages(request: ModelRequest, result_images: bool) -> list[Json]:
    messages: list[Json] = []
    waiting: list[Json] = []
    for item in request.inputs:
        if isinstance(item, ToolResultInput):
            messages.append(_result(item, result_images))
            if result_images:
                waiting += _images(item)
            continue
        if waiting:
            messages.append({"role": "user", "content": waiting})
            waiting = []
        messages.append(_message(item))
    if waiting:
        messages.append({"role": "user", "content": waiting})
    return messages


def _result(item: ToolResultInput, images: bool) -> Json:
    content = f"Error: {item.content}" if item.is_error else item.content
    if item.images:
        count = f"{len(item.images)} image{'s' * (len(item.images) > 1)}"
        words = (
            f"({count}, which follow{'s' * (len(item.images) == 1)}.)"
            if images
            else f"({count}, which this model can't be shown.)"
        )
        content = f"{content}\n{words}" if content else words
    return {"role": "tool", "tool_call_id": item.call_id, "content": content}


def _images(item: ToolResultInput) -> list[Json]:
    if not item.images:
        return []
    said = {"type": "text", "text": f"(Of the result of the call {item.call_id}:)"}
    return [said, *map(_image, item.images)]


def _image(image: ImagePart) -> Json:
    return {"type": "image_url", "image_url": {"url": f"data:{image.mime_type};base64,{image.data}"}}


def _message(item: TextInput | AssistantInput) -> Json:
    if isinstance(item, TextInput):
        return {"role": item.role, "content": _content(item.content)}
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


def _content(content: Content) -> str | list[Json]:
    """One string unless there is an image: many compatible servers take nothing else."""
    if isinstance(content, str):
        return content
    parts: list[Json] = []
    for part in content:
        if isinstance(part, ImagePart):
            parts.append(_image(part))
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
