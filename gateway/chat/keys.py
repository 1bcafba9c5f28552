"""Bytes of a terminal to keys. No I/O."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from gateway.chat.words import printable

__all__ = ["DISABLE_PASTE", "ENABLE_PASTE", "Key", "Keys", "Typed"]

ENABLE_PASTE: Final = "\x1b[?2004h"
"""Asks the terminal to mark what is pasted, so that its line breaks are not taken for Enter."""
DISABLE_PASTE: Final = "\x1b[?2004l"

_PASTE_BEGINS: Final = "\x1b[200~"
_PASTE_ENDS: Final = "\x1b[201~"
_LONGEST_SEQUENCE: Final = 32

_CONTROLS: Final = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x01": "home",
    "\x02": "left",
    "\x04": "eof",
    "\x05": "end",
    "\x06": "right",
    "\x0b": "kill-end",
    "\x0e": "down",
    "\x10": "up",
    "\x15": "kill-start",
    "\x17": "kill-word",
}
_SEQUENCES: Final = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "1~": "home",
    "7~": "home",
    "4~": "end",
    "8~": "end",
    "3~": "delete",
    "1;5C": "word-right",
    "1;5D": "word-left",
}


class Typed(Struct, frozen=True):
    """Characters, typed or pasted; only pasted ones hold line breaks."""

    text: str


class Key(Struct, frozen=True):
    """A key that is no character, by a name of the tables above."""

    name: str


class Keys:
    """Takes bytes in any pieces. A sequence that it does not know is swallowed."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest: str = ""
        self._pasting = False

    def feed(self, data: bytes) -> Iterator[Typed | Key]:
        self._rest += self._decoder.decode(data)
        while self._rest:
            step = self._paste() if self._pasting else self._key()
            if step is None:
                return
            if step != Typed(""):
                yield step

    def _paste(self) -> Typed | None:
        text, end, after = self._rest.partition(_PASTE_ENDS)
        if end:
            self._rest, self._pasting = after, False
        else:
            # The end may have begun.
            kept = next((n for n in range(len(_PASTE_ENDS) - 1, 0, -1) if text.endswith(_PASTE_ENDS[:n])), 0)
            text, self._rest = text[: len(text) - kept], text[len(text) - kept :]
            if not text:
                return None
        return Typed(printable(text.replace("\r\n", "\n").replace("\r", "\n")))

    def _key(self) -> Typed | Key | None:
        first = self._rest[0]
        if first == "\x1b":
            return self._sequence()
        if first in _CONTROLS:
            self._rest = self._rest[1:]
            return Key(_CONTROLS[first])
        end = next((i for i, c in enumerate(self._rest) if c in _CONTROLS or c == "\x1b"), len(self._rest))
        text, self._rest = self._rest[:end], self._rest[end:]
        return Typed(printable(text))

    def _sequence(self) -> Typed | Key | None:
        """ESC, then a character, or `[` or `O` with parameters and a final one (ECMA-48, 5.4)."""
        rest = self._rest
        if len(rest) < 2:
            return None
        if rest[1] not in "[O":
            self._rest = rest[2:]
            return Typed("")
        end = next((i for i in range(2, min(len(rest), _LONGEST_SEQUENCE)) if "@" <= rest[i] <= "~"), None)
        if end is None:
            if len(rest) >= _LONGEST_SEQUENCE:
                self._rest = rest[2:]
                return Typed("")
            return None
        sequence, self._rest = rest[: end + 1], rest[end + 1 :]
        if sequence == _PASTE_BEGINS:
            self._pasting = True
            return Typed("")
        name = _SEQUENCES.get(sequence[2:])
        return Typed("") if name is None else Key(name)
