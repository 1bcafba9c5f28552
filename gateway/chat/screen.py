"""The terminal's screen: text that flows, below it what waits, what runs, and the line that is being typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from gateway.chat.bars import bars
from gateway.chat.canvas import Canvas, Run, fit
from gateway.chat.editor import Line
from gateway.chat.terminal import Terminal
from gateway.chat.words import one_line
from protocol.frames import Running

__all__ = ["Screen"]


class Screen:
    """Draws on a terminal; `line` is what is being typed."""

    def __init__(self, terminal: Terminal, *, colour: bool) -> None:
        self.line = Line()
        self._terminal = terminal
        self._colour = colour
        self._canvas = Canvas(terminal.size[0], colour=colour)

    @property
    def fresh_line(self) -> bool:
        return self._canvas.fresh_line

    def draw(self, runs: Sequence[Run], *, waiting: Iterable[str], running: Iterable[Running], prompt: str) -> None:
        """Add `runs` to the text, and draw the rest anew. Raises OSError where the terminal is gone."""
        width, height = self._terminal.size
        rows = [fit(f"  {one_line(text)} (waits)", width - 1) for text in waiting]
        rows += bars(running, width - 1, colour=self._colour)
        prompt = fit(prompt, width // 2)
        text, cursor = self.line.window(width - 2 - len(prompt))
        # A row is left for the text: what is drawn again must all be on the screen.
        rows = [*rows[-(height - 2) :], prompt + text]
        self._terminal.write(self._canvas.draw(runs, rows, len(prompt) + cursor))

    def resize(self) -> None:
        self._canvas.resize(self._terminal.size[0])

    def close(self) -> None:
        """Leave the text alone on the screen."""
        with suppress(OSError):
            self._terminal.write(self._canvas.draw([], [], 0))
            if not self._canvas.fresh_line:
                self._terminal.write("\r\n")
