"""What messages name to be read, as a model reads it: each resource before its message, as if the user had put it
there (docs/protocol.md, Resources of a message)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from gateway.core.images import shown
from gateway.core.inputs import TextInput
from gateway.core.resources import uris_of
from protocol.frames import Message, TextPart, ToolCall, ToolResponse

__all__ = ["said_with_resources"]

_FAILED = {
    "denied": "was not read: it is not allowed",
    "cancelled": "was not read: the reading was cancelled",
    "interrupted": "was not read: the reading was interrupted",
    "timeout": "was not read: it took too long",
}


def said_with_resources(
    said: Sequence[Message], reads: Iterable[ToolCall], answers: Mapping[str, ToolResponse]
) -> list[tuple[str, list[TextInput]]]:
    """Each message by its id, after what it names. Messages and `reads`, the calls that read, stand in the order in
    which they were stored: of two messages that name the same, the first reading is the first one's."""
    made: dict[str, list[ToolCall]] = {}
    for call in reads:
        made.setdefault(str(call.parameters.get("uri")), []).append(call)
    told: list[tuple[str, list[TextInput]]] = []
    for message in said:
        inputs: list[TextInput] = []
        for uri in uris_of(message):
            calls = made.get(uri)
            inputs.append(_resource(uri, answers.get(calls.pop(0).id) if calls else None))
        inputs.append(TextInput("system" if message.role == "system" else "user", message.content))
        told.append((message.id, inputs))
    return told


def _resource(uri: str, answer: ToolResponse | None) -> TextInput:
    if answer is None:
        return _text(uri, "was not read")
    if answer.status == "success":
        return _content(uri, answer.result)
    words = answer.result if isinstance(answer.result, str) else ""
    return _text(uri, _FAILED.get(answer.status, "could not be read") + (f" ({words})" if words else ""))


def _content(uri: str, result: Any) -> TextInput:
    if not isinstance(result, dict):
        return _text(uri, "", _words(result))
    read = cast("dict[str, Any]", result)
    kind, text = read.get("mime_type"), read.get("text")
    of_type = f"({kind})" if isinstance(kind, str) else ""
    if isinstance(text, str):
        return _text(uri, of_type, text)
    seen = shown({"content": read.get("content")})
    if seen is None:
        return _text(uri, of_type, _words(read))
    heading = _text(uri, of_type, seen.text).content
    return (
        TextInput("user", [TextPart(text=str(heading)), *seen.images], resource=uri)
        if seen.images
        else (TextInput("user", heading, resource=uri))
    )


def _text(uri: str, what: str, text: str = "") -> TextInput:
    heading = f"[Resource {uri}{what and ' '}{what}]"
    return TextInput("user", f"{heading}\n{text}" if text else heading, resource=uri)


def _words(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()
