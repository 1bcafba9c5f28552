"""What an MCP server answers to a call, as the result of a tool or its failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import mcp_types as types
from mcp.client import InputRequiredRoundsExceededError
from mcp.shared.exceptions import MCPError
from msgspec import json
from pydantic import ValidationError

from gateway.core.images import image_type
from gateway.mcp.descriptions import clean
from gateway.tools.port import ToolError

__all__ = ["MAX_IMAGES", "failure", "result_of"]

MAX_IMAGES: Final = 786_432
"""Bytes of base64 of all images of a result together, so that with them it stays below what a result may have."""

_WORDS: Final = 2_000
_URI: Final = 2_048
_END: Final = re.compile(r"[A-Za-z0-9+/]{2,4}={0,2}|")


def result_of(result: types.CallToolResult) -> Any:
    """Plain JSON data: what is structured as it is; the text, where that is all; else `{"content": […]}`, whose items
    are content parts of the protocol (docs/protocol.md), and `structured` beside it where there are both.

    Images that models know are parts. Everything else that is no text is named in words, and an image is where those
    of the result are larger than MAX_IMAGES together. Raises ToolError where the tool says that it failed.
    """
    if result.is_error:
        raise ToolError(_said(result))
    parts = _parts(result.content)
    only_text = all(part["type"] == "text" for part in parts)
    if result.structured_content is not None:
        # The text beside it says the same (MCP specification, Tools, Structured Content).
        structured = result.structured_content
        return structured if only_text else {"content": parts, "structured": structured}
    if only_text and len(parts) <= 1:
        return parts[0]["text"] if parts else ""
    return {"content": parts}


def failure(error: MCPError | ValidationError | InputRequiredRoundsExceededError, server: str) -> ToolError:
    """Why a call has no result, in words for the model and the user. `server` is the name in the settings."""
    if isinstance(error, ValidationError):
        return ToolError(f"the MCP server {server!r} answered with something that is not MCP")
    if isinstance(error, InputRequiredRoundsExceededError):
        return ToolError(f"the MCP server {server!r} went on asking without end")
    words = {
        types.CONNECTION_CLOSED: "went away before it answered; whether the call had an effect is not known",
        types.REQUEST_TIMEOUT: "did not answer in time",
        types.METHOD_NOT_FOUND: "has no such tool any more",
    }.get(error.code, "refused the call")
    told = clean(error.message, _WORDS)
    return ToolError(f"the MCP server {server!r} {words}{': ' if told else ''}{told}")


def _said(result: types.CallToolResult) -> str:
    text = "\n".join(part["text"] for part in _parts(result.content) if part["type"] == "text")
    if text.strip():
        return text
    if result.structured_content is not None:
        return json.encode(result.structured_content).decode()
    return "the tool failed, and did not say why"


def _parts(content: Sequence[types.ContentBlock]) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    room = MAX_IMAGES
    for block in content:
        if isinstance(block, types.ImageContent):
            part = _image(block.mime_type, block.data, room)
        elif isinstance(block, types.EmbeddedResource):
            part = _embedded(block.resource, room)
        elif isinstance(block, types.ResourceLink):
            parts.append(_text(_link(block)))
            # So that a client can offer to open it.
            part = {"type": "resource", "uri": block.uri} if 0 < len(block.uri) <= _URI else None
        elif isinstance(block, types.AudioContent):
            part = _text(f"(Audio of the type {_named(block.mime_type)}, {_size(block.data)}, which is not shown.)")
        else:
            part = _text(block.text)
        if part is not None:
            room -= len(part.get("data", ""))
            parts.append(part)
    return parts


def _image(mime_type: str | None, data: str, room: int) -> dict[str, str]:
    kind = image_type(data)
    if kind is None:
        return _text(f"(An image of the type {_named(mime_type)}, {_size(data)}, which is not shown.)")
    if len(data) > room:
        return _text(f"(An image of the type {kind}, {_size(data)}, which is too large to be shown.)")
    return {"type": "image", "mime_type": kind, "data": data}


def _embedded(resource: types.TextResourceContents | types.BlobResourceContents, room: int) -> dict[str, str]:
    uri = clean(resource.uri, _URI)
    if isinstance(resource, types.TextResourceContents):
        return _text(f"{uri}:\n{resource.text}")
    if (resource.mime_type or "").startswith("image/"):
        return _image(resource.mime_type, resource.blob, room)
    return _text(f"(The resource {uri} of the type {_named(resource.mime_type)}, {_size(resource.blob)}.)")


def _link(link: types.ResourceLink) -> str:
    about = ", ".join(clean(word, _WORDS) for word in (link.title or link.name, link.description) if word)
    kind = f" of the type {_named(link.mime_type)}" if link.mime_type else ""
    return f"(The resource {clean(link.uri, _URI)}{kind}: {about}.)"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _named(mime_type: str | None) -> str:
    return clean(mime_type or "", 128) or "unknown"


def _size(data: str) -> str:
    """Of what base64 stands for; without decoding it, as it may be large."""
    if len(data) % 4 or not _END.fullmatch(data[-4:]):
        return f"{len(data):,} characters that are not base64"
    return f"{len(data) * 3 // 4 - data[-2:].count('='):,} bytes"
