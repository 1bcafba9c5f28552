"""What a running turn needs of the rest of the gateway."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.core.turn_state import Written
from gateway.core.window import TooLong, fit, turns_of
from gateway.epochs import Epochs
from gateway.metrics import Stats
from gateway.models.port import ModelClient, ModelError, ModelRequest
from gateway.patience import patiently
from gateway.publisher import Publisher
from gateway.recorder import Recorder
from gateway.routing import Routes
from gateway.turn_request import TurnRequest
from protocol.codec import decode_durable
from protocol.frames import DurableEvent
from stores.ports import ContextStore, EventLog
from stores.records import EventRow, History, Turn

__all__ = ["Checkpoint", "RunServices", "decode_draft", "no_checkpoint"]

Checkpoint = Callable[[str], Awaitable[None]]

_PAGE = 200
_BYTES_A_TOKEN = 4

decode_draft = msgspec.json.Decoder(Written).decode


async def no_checkpoint(name: str) -> None:
    """The default: nothing happens between two durable steps."""


class RunServices:
    """Shared by all turns of an instance. `checkpoint` is awaited between any two durable steps with the step's name:
    whoever tests what a crash does there puts it in."""

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
        stats: Stats,
        max_steps: int,
        max_retries: int = 3,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self.store = store
        self.log = log
        self.epochs = epochs
        self.recorder = recorder
        self.publisher = publisher
        self.models = models
        self.routes = routes
        self.stats = stats
        self.max_steps = max_steps
        self.max_retries = max_retries
        self.checkpoint = checkpoint

    async def backoff(self, retry: int) -> None:
        """Wait before the `retry`-th time that a step is begun again."""
        if retry:
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.25 * 2**retry, 8.0))  # noqa: S311 - spreads only

    async def assemble(self, turn: Turn, request: TurnRequest) -> ModelRequest:
        """The turn's next model call: the newest of the conversation that fits beside the answer."""
        model = self.models.get(request.model)
        if model is None:
            raise ModelError(
                "provider_error", f"The model {request.model!r} is not configured any more.", retryable=False
            )
        tools = await self.routes.offered(request)
        tool_tokens = len(msgspec.json.encode(tools)) // _BYTES_A_TOKEN
        budget = model.context_window - model.max_tokens - tool_tokens
        events = await self._recent(turn, budget * _BYTES_A_TOKEN)
        try:
            return ModelRequest(inputs=fit(turns_of(events, turn.id), budget), tools=tools)
        except TooLong:
            raise ModelError(
                "context_too_long",
                f"This turn alone is longer than the {model.context_window} tokens that {model.name!r} can read.",
                retryable=False,
            ) from None

    async def _recent(self, turn: Turn, enough: int) -> list[DurableEvent]:
        """Pages of history from the newest back, in the order of storing, until they are `enough` bytes."""
        rows: list[EventRow] = []
        before: int | None = None
        size = 0
        while True:
            page = await patiently(lambda: self._page(turn, before))  # noqa: B023 - awaited within the round
            rows = [*page.rows, *rows, *page.unsequenced]
            size += sum(len(row.body) for row in page.rows)
            if not page.has_more or size > enough:
                break
            before = page.rows[0].seq
        rows.sort(key=lambda row: row.order)
        return [decode_durable(row.body) for row in rows]

    def _page(self, turn: Turn, before: int | None) -> Awaitable[History]:
        return self.store.history(turn.key, before, _PAGE)
