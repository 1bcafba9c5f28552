"""What a model is given of a conversation, whoever the provider is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from protocol.frames import Content, ImagePart

__all__ = ["AssistantInput", "CallInput", "ModelInput", "TextInput", "ToolResultInput"]


class TextInput(Struct, frozen=True):
    """What a person or the operator said; or what was read for a message, from the URI `resource`."""

    role: Literal["user", "system"]
    content: Content
    resource: str | None = None


class CallInput(Struct, frozen=True):
    """A call that the model made before."""

    id: str
    tool: str
    parameters: dict[str, Any]


class AssistantInput(Struct, frozen=True):
    """What the model said before, with the calls it made while saying it."""

    content: str
    calls: Sequence[CallInput] = ()


class ToolResultInput(Struct, frozen=True):
    """The answer to a call; `content` is JSON text, or the text itself where the result was a string. `images` are of
    types and sizes that providers take (images.py)."""

    call_id: str
    content: str
    is_error: bool
    images: Sequence[ImagePart] = ()


ModelInput = TextInput | AssistantInput | ToolResultInput
