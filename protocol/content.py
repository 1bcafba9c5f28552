"""The content of a message as text."""

from __future__ import annotations

from protocol.frames import Content, ImagePart, ResourcePart, TextPart

__all__ = ["plain_text", "words_of"]


def plain_text(content: Content) -> str:
    """The words of a message, without its images and resources."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if isinstance(part, TextPart))


def words_of(content: Content) -> str:
    """The words of a message; an image or a resource is named in brackets."""
    if isinstance(content, str):
        return content
    words: list[str] = []
    for part in content:
        if isinstance(part, ImagePart):
            words.append(f"[{part.mime_type}]")
        elif isinstance(part, ResourcePart):
            words.append(f"[{part.uri}]")
        else:
            words.append(part.text)
    return " ".join(words)
