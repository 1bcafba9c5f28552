"""What waits for the person at the terminal: calls to be allowed, questions of running tools. No I/O."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from gateway.chat.form import Form
from gateway.chat.view import View
from gateway.chat.words import one_line
from protocol.frames import ToolCall

__all__ = ["Deciding", "Decision", "Taken"]

_YES: Final = frozenset({"y", "yes"})
_NO: Final = frozenset({"n", "no"})


class Decision(Struct, frozen=True):
    """What the person decided; `parameters` are a filled form."""

    call: ToolCall
    approved: bool
    parameters: dict[str, Any] | None = None
    reason: str | None = None


class Taken(Struct, frozen=True):
    """A line went into a form; `problem` says why it did not fit."""

    problem: str | None = None


class Deciding:
    """One at a time, the oldest first, among those that `view` shows and that were not decided here."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._decided: set[str] = set()
        self._form: Form | None = None

    @property
    def call(self) -> ToolCall | None:
        return next((call for id, call in self._view.asked.items() if id not in self._decided), None)

    @property
    def prompt(self) -> str | None:
        """What is asked; None where nothing waits."""
        call, form = self.call, self._open_form
        if form is not None:
            return form.prompt
        return f"allow {one_line(call.tool, 40)}? [y/n] " if call is not None else None

    def enter(self, line: str) -> Decision | Taken | None:
        """What a typed line, which is no command, says about it; None where it is about something else."""
        form = self._open_form
        if form is not None and not form.filled:
            problem = form.fill(line)
            if problem is not None or not form.filled:
                return Taken(problem)
            return self.decide(approved=True)
        word = line.strip().lower()
        return self.decide(approved=word in _YES) if word in _YES | _NO else None

    def decide(self, *, approved: bool, reason: str | None = None) -> Decision | Taken | None:
        """None where nothing waits."""
        call, form = self.call, self._open_form
        if call is None:
            return None
        if approved and form is not None and not form.filled:
            return Taken("there is more to fill in; /deny declines")
        self._decided.add(call.id)
        filled = form.content if approved and form is not None and form.has_fields else None
        return Decision(call, approved, filled, None if approved else reason)

    @property
    def _open_form(self) -> Form | None:
        call = self.call
        if call is None or call.asked_by is None:
            self._form = None
        elif self._form is None or self._form.question.id != call.id:
            self._form = Form(call)
        return self._form
