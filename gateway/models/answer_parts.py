"""What the parsers of all providers' streams share: text that arrives in halves, and the arguments of a call; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from gateway.models.port import CallReady, TextPiece

__all__ = ["MAX_ARGUMENTS", "Channel", "cut_call", "read_call", "scalar", "too_long_call"]

MAX_ARGUMENTS = 1 << 20


class Channel(Struct):
    """One channel's text. A server that cuts between the halves of a surrogate pair gets them joined again; a half
    that stays alone becomes U+FFFD, since it can't be written as UTF-8."""

    name: Literal["text", "reasoning"]
    half: str = ""

    def add(self, text: str) -> Iterator[TextPiece]:
        text, self.half = self.half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self.half = text[:-1], text[-1]
        if text:
            yield TextPiece(scalar(text), self.name)

    def end(self) -> Iterator[TextPiece]:
        if self.half:
            self.half = ""
            yield TextPiece("�", self.name)


def scalar(text: str) -> str:
    """`text` with surrogate pairs joined and halves of them replaced, so that it can be written as UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def read_call(tool: str, arguments: str) -> CallReady:
    """The call with what the model wrote as its arguments; none at all are an empty object."""
    try:
        value: Any = msgspec.json.decode(arguments.strip() or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return CallReady(tool, {}, f"The arguments are not valid JSON: {error}")
    if not isinstance(value, dict):
        return CallReady(tool, {}, "The arguments must be a JSON object.")
    return CallReady(tool, cast("dict[str, Any]", value))


def cut_call(tool: str) -> CallReady:
    """For a call of which the answer's limit left the name alone."""
    return CallReady(tool, {}, "The answer reached its limit before the arguments of this call.")


def too_long_call(tool: str) -> CallReady:
    return CallReady(tool, {}, f"The arguments are longer than {MAX_ARGUMENTS} characters.")
