"""What the parts of a run, the model's and the tools', ask of it (gateway/run.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from gateway.core.stored_turn import StoredTurn
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import Effect
from gateway.metering import TurnMeter
from gateway.turn_request import TurnRequest
from stores.records import Turn

__all__ = ["Driver", "Finished"]


class Finished(Exception):
    """The run is over: its turn has ended, or is parked."""


class Driver(Protocol):
    """One run of one turn."""

    @property
    def turn(self) -> Turn: ...

    @property
    def request(self) -> TurnRequest: ...

    @property
    def stored(self) -> StoredTurn: ...

    @property
    def machine(self) -> TurnMachine: ...

    @property
    def meter(self) -> TurnMeter: ...

    @property
    def busy(self) -> bool:
        """Whether an input is being carried out: another one has to wait, by `step`."""
        ...

    async def step(self, step: Callable[[], list[Effect]]) -> None:
        """Give the machine an input, and carry out what it makes of it, before any other one. Raises Finished, Fenced,
        NotFound, which are the end of the run."""
        ...

    def say(self, effects: Sequence[Effect]) -> None:
        """Publish what is live only, at once."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the run: what it raises ends the run."""
        ...

    def poke(self) -> None:
        """Something was stored for the turn: look."""
        ...
