"""The phases of a turn, what may follow what, and what a runner finds of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from protocol.frames import DurableEvent, ToolApproval, ToolCall

__all__ = ["LEGAL", "CallState", "IllegalTransition", "Phase", "Recovered", "StepMessage", "TurnCall", "Written"]


class Phase(Enum):
    NEW = "new"
    MODEL = "model"  # a step is being written
    CALLS = "calls"  # its calls are running
    PARKED = "parked"  # only people or clients are waited for
    ENDING = "ending"  # the end is proposed to the store
    OVER = "over"


LEGAL: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.NEW: frozenset({Phase.MODEL, Phase.CALLS, Phase.PARKED, Phase.ENDING, Phase.OVER}),
    Phase.MODEL: frozenset({Phase.CALLS, Phase.ENDING}),
    Phase.CALLS: frozenset({Phase.MODEL, Phase.CALLS, Phase.PARKED, Phase.ENDING}),
    Phase.PARKED: frozenset({Phase.MODEL, Phase.CALLS, Phase.PARKED, Phase.ENDING}),
    Phase.ENDING: frozenset({Phase.CALLS, Phase.OVER}),
    Phase.OVER: frozenset(),
}


class IllegalTransition(Exception):
    """A bug of ours: the machine stays as it was."""


class CallState(Enum):
    ASKED = "asked"  # a person is to decide, or to answer a question
    WITH_CLIENT = "with_client"  # a client is to answer
    READY = "ready"  # to be run here
    RUNNING = "running"
    DENIED = "denied"  # a person said no, which is not stored as an answer yet
    ANSWERED = "answered"


class TurnCall:
    """A call of the turn; `parameters` are those to run it with, `reason` why a person denied it."""

    __slots__ = ("event", "parameters", "reason", "state")

    def __init__(self, event: ToolCall) -> None:
        self.event = event
        self.parameters = event.parameters
        self.reason: str | None = None
        self.state = CallState.ASKED if event.approval == "required" else self._released()

    @property
    def answered(self) -> bool:
        return self.state is CallState.ANSWERED

    @property
    def is_question(self) -> bool:
        """Whether a running tool asks it: nothing runs, whoever decides answers it."""
        return self.event.asked_by is not None

    @property
    def waits(self) -> bool:
        """Whether it waits for somebody who may come back in days: no question does, as its tool runs on."""
        return self.state in (CallState.ASKED, CallState.WITH_CLIENT) and not self.is_question

    def decide(self, event: ToolApproval) -> CallState:
        """Take in a person's decision, of which the first one counts; the state after it."""
        if self.state is CallState.ASKED:
            if event.parameters is not None:
                self.parameters = event.parameters
            self.reason = event.reason
            self.state = self._released() if event.approved else CallState.DENIED
        return self.state

    def _released(self) -> CallState:
        return CallState.WITH_CLIENT if self.event.runs_on == "client" else CallState.READY


class StepMessage:
    """The message that is being written; `retry` counts the failures of the provider, `reads` is the last steering
    message that its step is given."""

    __slots__ = ("attempt", "calls", "id", "reads", "reasoning", "retry", "text")

    def __init__(self, id: str, attempt: int, reads: str | None) -> None:
        self.id = id
        self.attempt = attempt
        self.reads = reads
        self.retry = 0
        self.calls = 0
        self.text: list[str] = []
        self.reasoning: list[str] = []


class Written(Struct, frozen=True):
    """A message as far as it was written: from the log's fold, or from the turn's draft."""

    message_id: str
    attempt: int
    text: str
    reasoning: str = ""
    reads: str | None = None


class Recovered(Struct, frozen=True, kw_only=True):
    """What a runner finds of a turn. `interrupted` are the calls that were started and must not be started again,
    `cancelled_calls` those that somebody cancelled; `live` is the open message in the log, `draft` the one saved with
    its last call; `begun_before` says that an earlier runner may have begun the next step; `cancelled` is of the
    whole turn. `since` tells of each call since when it can be acted on, `now` what time it is (seconds since 1970)."""

    events: Sequence[DurableEvent]
    interrupted: frozenset[str] = frozenset()
    cancelled_calls: frozenset[str] = frozenset()
    live: Written | None = None
    draft: Written | None = None
    begun_before: bool = False
    cancelled: bool = False
    since: Mapping[str, float] = {}
    now: float = 0.0
