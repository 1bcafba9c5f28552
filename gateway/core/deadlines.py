"""Until when a call waits for somebody who is not there: a client that is to run it, a person who is to decide it.

Times are seconds since 1970, and come in. What counts is when the store took what let the call be acted on, which every
runner of the turn finds the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from gateway.core.turn_state import CallState, TurnCall
from protocol.frames import DurableEvent, ToolApproval, ToolCall

__all__ = ["Deadlines", "Waits", "since_when"]


class Waits(Struct, frozen=True, kw_only=True):
    """How many seconds a call waits for a client, and for a person. None: without end."""

    client: float | None = None
    approval: float | None = None


def since_when(stored: Iterable[tuple[DurableEvent, float]]) -> dict[str, float]:
    """Of each call among the events, with the times when they were stored, since when it can be acted on: since it was
    stored, or a person decided it."""
    since: dict[str, float] = {}
    for event, at in stored:
        if isinstance(event, ToolCall):
            since[event.id] = at
        elif isinstance(event, ToolApproval):
            since[event.tool_call_id] = at
    return since


class Deadlines:
    """Of the calls of one turn. A question of a running tool has none here: its tool says how long it waits."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._since: dict[str, float] = {}

    def note(self, since: Mapping[str, float]) -> None:
        """Since when calls can be acted on; the last word counts."""
        self._since |= since

    def first(self, calls: Iterable[TurnCall]) -> float | None:
        """When the first of the calls has waited long enough; None: never."""
        return min((at for at in map(self._of, calls) if at is not None), default=None)

    def passed(self, calls: Iterable[TurnCall], now: float) -> list[tuple[TurnCall, str]]:
        """The calls that have waited long enough, each with what its model is told."""
        late = [call for call in calls if (at := self._of(call)) is not None and at <= now]
        return [(call, self._words(call)) for call in late]

    def _of(self, call: TurnCall) -> float | None:
        since, seconds = self._since.get(call.event.id), self._seconds(call)
        return since + seconds if since is not None and seconds is not None else None

    def _seconds(self, call: TurnCall) -> float | None:
        if call.is_question:
            return None
        if call.state is CallState.WITH_CLIENT:
            return self._waits.client
        return self._waits.approval if call.state is CallState.ASKED else None

    def _words(self, call: TurnCall) -> str:
        seconds = f"{self._seconds(call):g} s"
        if call.state is CallState.ASKED:
            return f"Nobody decided within {seconds} whether it may run, so it did not."
        return f"The user's device did not answer within {seconds}; whether it had an effect is not known."
