"""The terminal as two parts: text that flows and stays, and below it rows that are drawn again and again. No I/O.

Words are kept whole: one that meets the edge while it streams is taken back and begun on the next row. The last column
stays free, as terminals differ in what they do after it. All that must be known of the text is where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct
from rich.cells import cell_len, get_character_cell_size

__all__ = ["Canvas", "Run", "Style", "fit"]

Style = Literal["plain", "dim", "bold", "bad"]

_CODES: Final[dict[Style, str]] = {"plain": "", "dim": "\x1b[2m", "bold": "\x1b[1m", "bad": "\x1b[31m"}
_RESET: Final = "\x1b[0m"
_CLEAR_BELOW: Final = "\x1b[J"
_CLEAR_ROW: Final = "\x1b[K"
_TAB: Final = "    "


class Run(Struct, frozen=True):
    """Text in one style. It holds no control characters but line breaks and tabs."""

    text: str
    style: Style = "plain"


class Canvas:
    """`draw` gives what to write. Columns are counted as the terminal counts them, `width` of them a row."""

    def __init__(self, width: int, *, colour: bool = True) -> None:
        self.width = width
        self._colour = colour
        self._column = 0
        self._word = ""
        self._style: Style = "plain"
        self._rows = 0

    @property
    def fresh_line(self) -> bool:
        """Whether the text ends with a line."""
        return self._column == 0

    def draw(self, runs: Sequence[Run], rows: Sequence[str], cursor: int) -> str:
        """Add `runs` to the text, and draw `rows` (each of fewer than `width` cells) below it, with the cursor in that
        cell of the last one."""
        written = [self._erase()]
        written += [self._text(run) for run in runs]
        if rows:
            if self._column:
                written.append("\r\n")
            written.append("\r\n".join(rows))
            written.append(f"\r\x1b[{cursor}C" if cursor else "\r")
        self._rows = len(rows)
        return "".join(written)

    def resize(self, width: int) -> None:
        """The terminal has wrapped what it holds anew: where the text ends is not known, so it goes on below."""
        self.width = width
        self._column = 0
        self._word = ""

    def _erase(self) -> str:
        """From the end of the rows back to the end of the text."""
        if not self._rows:
            return ""
        up = self._rows - 1 + (1 if self._column else 0)
        back = f"\x1b[{up}A" if up else ""
        right = f"\x1b[{self._column}C" if self._column else ""
        # What is on the text's own row, after it, is nothing.
        return f"\r{back}{right}{_CLEAR_BELOW}"

    def _text(self, run: Run) -> str:
        if not run.text:
            return ""
        if run.style != self._style:
            self._style, self._word = run.style, ""
        text = "".join([self._put(character) for character in run.text.replace("\t", _TAB)])
        code = "" if run.style == "bad" and not self._colour else _CODES[run.style]
        return f"{code}{text}{_RESET}" if code else text

    def _put(self, character: str) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
            return "\r\n"
        cells = get_character_cell_size(character)
        if self._column + cells < self.width:
            self._column += cells
            self._word = "" if character == " " else self._word + character
            return character
        word, self._word = self._word, ""
        if character == " ":
            self._column = 0
            return "\r\n"
        begun = cell_len(word)
        if begun < self._column:
            back = f"\x1b[{begun}D{_CLEAR_ROW}" if begun else ""
        else:
            # Longer than a row: it is broken where the row ends.
            back, word, begun = "", "", 0
        self._column, self._word = begun + cells, word + character
        return f"{back}\r\n{word}{character}"


def fit(text: str, width: int) -> str:
    """The beginning of a line in at most `width` cells, with an ellipsis where something is cut off."""
    cells = 0
    for index, character in enumerate(text):
        cells += get_character_cell_size(character)
        if cells > width:
            return _shortened(text[:index], width)
    return text


def _shortened(text: str, width: int) -> str:
    cells = sum(get_character_cell_size(character) for character in text)
    while text and cells > width - 1:
        cells -= get_character_cell_size(text[-1])
        text = text[:-1]
    return text + "…" if width > 0 else ""
