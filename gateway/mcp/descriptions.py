"""Texts of MCP servers, as far as models and people may be shown them.

A server may say what it likes; what it may not do is to say it unseen. What a person can't see in a text (control and
format characters, bidirectional overrides, zero-width and tag characters, variation selectors) is taken out before a
model reads it, so that whoever approves a call has read what the model has read.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["DESCRIPTION", "clean", "is_clean"]

DESCRIPTION: Final = 4_096
"""The longest description of a tool, in characters."""

_CUT: Final = " […]"
# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), and what is no text: controls but tab and newline,
# interlinear annotations, surrogates, private use, noncharacters of the basic plane.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_LINE_END: Final = re.compile("\r\n?|[\x85\u2028\u2029]")
# What stands behind a screenful of nothing is unseen as well.
_BLANKS: Final = re.compile(r"[^\S\n]{9,}")
_BLANK_LINES: Final = re.compile(r"\n(?:[^\S\n]*\n){2,}")


def clean(text: str, longest: int = DESCRIPTION) -> str:
    """The text without what can't be seen, cut to `longest` characters."""
    # Before anything else, so that the length of the text costs nothing.
    shortened = text[: 4 * longest]
    seen = _UNSEEN.sub("", _LINE_END.sub("\n", shortened))
    seen = _BLANK_LINES.sub("\n\n", _BLANKS.sub(" " * 8, seen)).strip()
    if len(seen) <= longest and len(shortened) == len(text):
        return seen
    return seen[: longest - len(_CUT)].rstrip() + _CUT


def is_clean(text: str) -> bool:
    """Whether all of the text can be seen."""
    return _UNSEEN.search(text) is None
