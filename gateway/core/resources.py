"""Which resources a message names, and the calls that read them for its turn (docs/protocol.md, Resources of a
message)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.frames import Message, ResourcePart, ToolCall

__all__ = ["READ_RESOURCE", "is_read", "uris_of"]

READ_RESOURCE: Final = "read_resource"
"""The tool that reads one, which models may call too."""


def uris_of(message: Message) -> Sequence[str]:
    """What is read before the message: its `resources`, then its parts, each once."""
    parts = message.content if not isinstance(message.content, str) else []
    named = [*(message.resources or ()), *(part.uri for part in parts if isinstance(part, ResourcePart))]
    return list(dict.fromkeys(named))


def is_read(call: ToolCall) -> bool:
    """Whether a message's turn made the call, to read a resource: no step made it, no tool asked it. In the turn of a
    direct call it is that call, which has no message."""
    return call.tool == READ_RESOURCE and call.message_id is None and call.asked_by is None
