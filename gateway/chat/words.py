"""What others wrote, made fit for a terminal: models, tools and other devices may send any characters. No I/O."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

__all__ = ["one_line", "printable", "value_line"]

# Escape sequences begin with control characters; what turns the direction of writing can make a call look like another.
_UNFIT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SPACE: Final = re.compile(r"\s+")


def printable(text: str) -> str:
    """Without what a terminal would obey instead of show; lines and tabs stay."""
    return _UNFIT.sub("", text)


def one_line(text: str, limit: int = 200) -> str:
    """In one line of at most `limit` characters."""
    line = _SPACE.sub(" ", printable(text[: 4 * limit])).strip()
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1] + "…"


def value_line(value: Any, limit: int = 200) -> str:
    """A tool's parameters or result in one line: text as it is, all else as JSON."""
    return one_line(value if isinstance(value, str) else orjson.dumps(value, default=str).decode(), limit)
