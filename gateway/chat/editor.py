"""The line that is being typed. No I/O."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len

from gateway.chat.keys import Key, Typed

__all__ = ["Line"]

_MAX_LENGTH: Final = 200_000
_MAX_HISTORY: Final = 500
_BREAK: Final = "⏎"


class Line:
    """One line with a cursor, and those that were entered before. `text` may hold line breaks that were pasted."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self._history: list[str] = []
        self._place = 0
        self._draft = ""

    def put(self, text: str) -> None:
        """In place of what is there."""
        self.text, self.at = text, len(text)

    def press(self, key: Typed | Key) -> str | None:
        """The line, where the key enters it; it is then empty."""
        if isinstance(key, Typed):
            room = _MAX_LENGTH - len(self.text)
            text = key.text[: max(0, room)].replace("\t", "    ")
            self.text = self.text[: self.at] + text + self.text[self.at :]
            self.at += len(text)
            return None
        match key.name:
            case "enter":
                return self._enter()
            case "backspace":
                self._cut(max(0, self.at - 1), self.at)
            case "delete" | "eof":
                self._cut(self.at, self.at + 1)
            case "kill-start":
                self._cut(0, self.at)
            case "kill-end":
                self._cut(self.at, len(self.text))
            case "kill-word":
                self._cut(self._word_left(), self.at)
            case "left":
                self.at = max(0, self.at - 1)
            case "right":
                self.at = min(len(self.text), self.at + 1)
            case "word-left":
                self.at = self._word_left()
            case "word-right":
                self.at = self._word_right()
            case "home":
                self.at = 0
            case "end":
                self.at = len(self.text)
            case "up":
                self._recall(self._place - 1)
            case "down":
                self._recall(self._place + 1)
            case _:
                pass
        return None

    def window(self, width: int) -> tuple[str, int]:
        """The part around the cursor in at most `width` cells, and the cursor's cell in it."""
        text = self.text.replace("\n", _BREAK)
        begin = self.at
        while begin > 0 and cell_len(text[begin - 1 : self.at]) < width:
            begin -= 1
        end = self.at
        while end < len(text) and cell_len(text[begin : end + 1]) <= width:
            end += 1
        return text[begin:end], cell_len(text[begin : self.at])

    def _enter(self) -> str:
        text = self.text
        if text.strip() and (not self._history or self._history[-1] != text):
            self._history = [*self._history, text][-_MAX_HISTORY:]
        self._place = len(self._history)
        self._draft = ""
        self.put("")
        return text

    def _recall(self, place: int) -> None:
        if not 0 <= place <= len(self._history):
            return
        if self._place == len(self._history):
            self._draft = self.text
        self._place = place
        self.put(self._history[place] if place < len(self._history) else self._draft)

    def _cut(self, begin: int, end: int) -> None:
        self.text = self.text[:begin] + self.text[end:]
        self.at = begin

    def _word_left(self) -> int:
        return len(self.text[: self.at].rstrip().rpartition(" ")[0]) + (" " in self.text[: self.at].rstrip())

    def _word_right(self) -> int:
        rest = self.text[self.at :]
        lead = len(rest) - len(rest.lstrip())
        return self.at + lead + len(rest.lstrip().partition(" ")[0])
