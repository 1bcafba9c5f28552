"""Images within the results of tools: which models can be shown, and how such a result reads without them."""

from __future__ import annotations

import binascii
from typing import Any, Final, NamedTuple, cast

import msgspec

from protocol.frames import ImagePart, ResourcePart, TextPart

__all__ = ["Shown", "image_type", "shown"]

_HEAD: Final = 16  # characters, which are 12 bytes
_PARTS: Final = 256
_Part = TextPart | ImagePart | ResourcePart


class Shown(NamedTuple):
    """A result as a model is given it."""

    text: str
    images: tuple[ImagePart, ...]


def image_type(data: str) -> str | None:
    """The MIME type of an image in base64, as its first bytes tell it: a PNG, JPEG, GIF or WebP, which are what
    providers take. None for anything else, and for what is not base64: a provider would refuse it, and with it every
    later request of the conversation."""
    try:
        head = binascii.a2b_base64(data[:_HEAD], strict_mode=True)
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def shown(result: Any) -> Shown | None:
    """A result that is an object whose `content` is a list of content parts (docs/protocol.md), and nothing but such;
    None for every other one. What else the object holds stands before the texts of the parts, as JSON."""
    if not isinstance(result, dict):
        return None
    known = cast("dict[str, Any]", result)
    parts = _parts(known.get("content"))
    if parts is None:
        return None
    rest = {key: value for key, value in known.items() if key != "content"}
    texts = [msgspec.json.encode(rest).decode()] if rest else []
    images: list[ImagePart] = []
    for part in parts:
        if not isinstance(part, ImagePart):
            texts.append(part.uri if isinstance(part, ResourcePart) else part.text)
        elif kind := image_type(part.data):
            # Providers compare what is said of an image with what it is.
            images.append(ImagePart(mime_type=kind, data=part.data))
        else:
            texts.append(f"(An image of the type {part.mime_type}, which can't be shown.)")
    return Shown("\n".join(texts), tuple(images))


def _parts(content: Any) -> list[_Part] | None:
    if not isinstance(content, list) or not 0 < len(cast("list[Any]", content)) <= _PARTS:
        return None
    try:
        return msgspec.convert(content, list[_Part])
    except msgspec.ValidationError:
        return None
