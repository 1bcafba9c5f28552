"""What is to be shown as text that flows down a terminal. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.chat.canvas import Run, Style
from gateway.chat.form import question_text
from gateway.chat.shown import (
    Anew,
    Asked,
    Called,
    Ended,
    Finished,
    Gone,
    Missed,
    Over,
    Piece,
    Said,
    Shown,
    Titled,
)
from gateway.chat.words import printable, value_line
from protocol.frames import ToolCall

__all__ = ["Page", "asked_line", "ended_line"]

_MAX_ASKED: Final = 100_000


class Page:
    """Breaks lines where one thing follows another. With `reasoning` False what a model thinks is left out.

    What a tool answered waits until the message that is being written is whole, so that it tears no sentence.
    """

    def __init__(self, *, reasoning: bool = True) -> None:
        self._reasoning = reasoning
        self._open_line = False
        self._flow: tuple[str, str] | None = None
        self._held: list[Ended] = []

    def write(self, shown: Iterable[Shown]) -> list[Run]:
        return [run for one in shown for run in self._one(one)]

    def line(self, text: str, style: Style = "dim") -> list[Run]:
        """A notice on lines of its own."""
        return [*self._break(), Run(printable(text) + "\n", style)]

    def _one(self, shown: Shown) -> Iterator[Run]:
        match shown:
            case Piece():
                yield from self._piece(shown)
            case Said():
                yield from self._free()
                yield Run("\n> ", "dim" if not shown.mine else "bold")
                yield Run(printable(shown.text).replace("\n", "\n  ") + "\n", "bold")
            case Finished():
                yield from self._free()
            case Anew():
                yield from self.line("(the answer begins again)")
            case Asked():
                yield from self.line(asked_line(shown.call), "bold")
            case Ended():
                self._held.append(shown)
                if self._flow is None:
                    yield from self._free()
            case Over():
                yield from self._free()
                if shown.reason is not None:
                    yield from self.line(shown.reason, "bad" if shown.status == "failed" else "dim")
            case Titled():
                yield from self.line(f"(title: {value_line(shown.title)})")
            case Missed():
                yield from self.line("(what came before is in the conversation's history only)")
            case Gone():
                yield from self.line("(this conversation was deleted)")
            case Called():
                pass  # a bar shows it while it runs

    def _piece(self, piece: Piece) -> Iterator[Run]:
        if piece.channel == "reasoning" and not self._reasoning:
            return
        text = printable(piece.text)
        if not text:
            return
        flow = (piece.message_id, piece.channel)
        if self._flow != flow:
            yield from self._break()
            self._flow = flow
        self._open_line = not text.endswith("\n")
        yield Run(text, "dim" if piece.channel == "reasoning" else "plain")

    def _free(self) -> Iterator[Run]:
        """Nothing is being written: what waited comes."""
        yield from self._break()
        for ended in self._held:
            yield Run(ended_line(ended) + "\n", "dim" if ended.status == "success" else "bad")
        self._held.clear()

    def _break(self) -> list[Run]:
        was_open, self._open_line, self._flow = self._open_line, False, None
        return [Run("\n")] if was_open else []


def ended_line(ended: Ended) -> str:
    """A call and what became of it, in one line."""
    if ended.call is not None and ended.call.asked_by is not None:
        said = {"success": "answered", "denied": "declined"}.get(ended.status, "not answered")
        return f"{value_line(ended.call.tool)}: {said}" + (f" {value_line(ended.result)}" if ended.result else "")
    call = "a tool" if ended.call is None else f"{value_line(ended.call.tool)} {value_line(ended.call.parameters, 120)}"
    if ended.status == "success":
        return f"✓ {call} → {value_line(ended.result)}"
    words = value_line(ended.result) if ended.result else ""
    return f"✗ {call} → {ended.status}" + (f": {words}" if words else "")


def asked_line(call: ToolCall) -> str:
    """What a person is asked to allow: all of it, as nobody can judge half a call. Or what a tool asks."""
    if call.asked_by is not None:
        return question_text(call)
    return f"{value_line(call.tool)} waits for you: {value_line(call.parameters, _MAX_ASKED)}"
