"""What a running turn needs of the rest of the gateway."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.assembly import Assembler
from gateway.auditing import Auditor
from gateway.core.deadlines import Waits
from gateway.core.stored_turn import StoredTurn
from gateway.core.turn_state import Written
from gateway.epochs import Epochs
from gateway.metering import Meter
from gateway.metrics import Stats
from gateway.models.port import ModelClient
from gateway.publisher import Publisher
from gateway.recorder import Recorder
from gateway.routing import Routes
from gateway.turn_request import TurnRequest
from stores.ports import ContextStore, EventLog
from stores.records import ContextKey

__all__ = ["Checkpoint", "RunServices", "decode_draft", "no_checkpoint"]

Checkpoint = Callable[[str], Awaitable[None]]
TurnOver = Callable[[ContextKey, str, TurnRequest, StoredTurn], None]

decode_draft = msgspec.json.Decoder(Written).decode


async def no_checkpoint(name: str) -> None:
    """The default: nothing happens between two durable steps."""


def nobody_cares(key: ContextKey, turn_id: str, request: TurnRequest, stored: StoredTurn) -> None:
    """The default: nothing follows a turn."""


class RunServices:
    """Shared by all turns of an instance. `checkpoint` is awaited between any two durable steps with the step's name:
    whoever tests what a crash does there puts it in. `turn_over` is told of every answered message: its context, its
    turn, what was asked of whom, what is stored of it. `waits` is how long calls wait for clients and people, `clock`
    gives seconds since 1970, as the store counts them."""

    def __init__(
        self,
        *,
        store: ContextStore,
        log: EventLog,
        epochs: Epochs,
        recorder: Recorder,
        publisher: Publisher,
        models: Mapping[str, ModelClient],
        routes: Routes,
        assembler: Assembler,
        stats: Stats,
        max_steps: int,
        max_retries: int = 3,
        checkpoint: Checkpoint = no_checkpoint,
        turn_over: TurnOver = nobody_cares,
        meter: Meter | None = None,
        auditor: Auditor | None = None,
        waits: Waits = Waits(),  # noqa: B008 - a constant
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.log = log
        self.epochs = epochs
        self.recorder = recorder
        self.publisher = publisher
        self.models = models
        self.routes = routes
        self.assembler = assembler
        self.stats = stats
        self.max_steps = max_steps
        self.max_retries = max_retries
        self.checkpoint = checkpoint
        self.turn_over = turn_over
        self.meter = meter or Meter({}, stats)
        self.auditor = auditor or Auditor()
        self.waits = waits
        self.clock = clock

    async def backoff(self, retry: int) -> None:
        """Wait before the `retry`-th time that a step is begun again."""
        if retry:
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.25 * 2**retry, 8.0))  # noqa: S311 - spreads only
