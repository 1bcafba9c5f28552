"""Answers to calls as an MCP client reads them."""

from __future__ import annotations

from typing import Any

import msgspec
from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent

from gateway.core.turn_inputs import FAILURES
from protocol.frames import ImagePart, ResourcePart, TextPart, ToolResponse

__all__ = ["block_of", "failure", "result_of"]


class _Parts(msgspec.Struct, forbid_unknown_fields=True):
    """A result that is made of content parts (docs/mcp.md)."""

    content: list[TextPart | ImagePart | ResourcePart]
    structured: Any = None


def result_of(answer: ToolResponse) -> CallToolResult:
    """A result that is an object stands as such beside its text, as the specification advises."""
    if answer.status != "success":
        detail = answer.result if isinstance(answer.result, str) else None
        return failure(detail if answer.status == "error" and detail else _join(FAILURES[answer.status], detail))
    try:
        parts = msgspec.convert(answer.result, _Parts)
    except msgspec.ValidationError:
        return CallToolResult(content=[_text(answer.result)], structured_content=_object(answer.result))
    return CallToolResult(content=list(map(block_of, parts.content)), structured_content=_object(parts.structured))


def failure(words: str) -> CallToolResult:
    """A call that failed, in words that a model may read."""
    return CallToolResult(content=[TextContent(text=words)], is_error=True)


def _object(value: Any) -> Any:
    """What earlier versions of MCP take for structured content: an object."""
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _join(words: str, detail: str | None) -> str:
    return f"{words} {detail}" if detail else words


def _text(result: Any) -> TextContent:
    return TextContent(text=result if isinstance(result, str) else msgspec.json.encode(result).decode())


def block_of(part: TextPart | ImagePart | ResourcePart) -> ContentBlock:
    """A content part; a resource that is not at hand is a link to it."""
    if isinstance(part, TextPart):
        return TextContent(text=part.text)
    if isinstance(part, ImagePart):
        return ImageContent(data=part.data, mime_type=part.mime_type)
    return ResourceLink(uri=part.uri, name=part.uri)
