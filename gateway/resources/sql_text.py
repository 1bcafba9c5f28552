"""The parameters in a query's text: `:name`, wherever that is no part of a string, a name, a comment or a cast."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["names_in", "with_parameters"]

_TOKEN: Final = re.compile(
    r"""
    [eE]'(?:[^'\\]|\\.|'')*'          # Postgres's strings with escapes
    | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]\n]*\]
    | (\$[A-Za-z_]*\$).*?\1           # Postgres's strings between dollars
    | --[^\n]* | /\*.*?\*/
    | ::
    | (?<![\w:]):([A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


def with_parameters(text: str, replacement: Callable[[str], str]) -> str:
    """The query with each `:name` replaced."""

    def of(match: re.Match[str]) -> str:
        return match[0] if match[2] is None else replacement(match[2])

    return _TOKEN.sub(of, text)


def names_in(text: str) -> list[str]:
    """The parameters' names, each once, in the order in which they first stand there."""
    return list(dict.fromkeys(match[2] for match in _TOKEN.finditer(text) if match[2] is not None))
