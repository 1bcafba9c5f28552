"""Titles and summaries: made by a model after a turn, in the background, so that no reply waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing

import structlog
from msgspec import Struct

from gateway.active_context import ActiveContext
from gateway.active_contexts import ActiveContexts
from gateway.assembly import Assembler, Scale, budget_of
from gateway.auth.principal import Principal
from gateway.core.digest import clean_title, due, summary_prompt, title_prompt
from gateway.core.inputs import ModelInput
from gateway.core.stored_turn import StoredTurn
from gateway.core.thread import Incomplete, Node
from gateway.core.tokens import guess, rough_count
from gateway.epochs import Epochs
from gateway.metering import Meter
from gateway.models.port import Finish, ModelClient, ModelError, ModelRequest, TextPiece
from gateway.stored_events import new_event
from gateway.turn_request import TurnRequest
from protocol.frames import ContextChanged
from protocol.ids import new_id
from stores.ports import ContextStore, StoreError
from stores.records import ContextKey, Summary

__all__ = ["Upkeep", "UpkeepOptions"]

_log = structlog.get_logger(__name__)
_AT_ONCE = 4
_SECONDS = 120.0
_ROUNDS = 16  # summaries made after one turn, where a long conversation has none yet
_MAX_WORDS = 600
_LONGEST_WAIT = 64  # turns


class UpkeepOptions(Struct, frozen=True, kw_only=True):
    """Whether contexts get titles; and the models that make titles and summaries (None: that of the turn)."""

    titles: bool = False
    title_model: str | None = None
    summary_model: str | None = None


class Upkeep:
    """One task a context at a time. What fails is tried again after a turn, then after two more, four, and so on; no
    reply waits for it."""

    def __init__(
        self,
        store: ContextStore,
        epochs: Epochs,
        contexts: ActiveContexts,
        assembler: Assembler,
        models: Mapping[str, ModelClient],
        meter: Meter,
        options: UpkeepOptions,
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._contexts = contexts
        self._assembler = assembler
        self._models = models
        self._meter = meter
        self._options = options
        self._busy: set[ContextKey] = set()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the tasks until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    def turn_over(self, key: ContextKey, turn_id: str, request: TurnRequest, stored: StoredTurn) -> None:
        """A turn has ended: see what the context wants."""
        if self._group is not None and key not in self._busy and request.model in self._models:
            self._busy.add(key)
            self._group.create_task(self._look_after(key, turn_id, request, stored))

    async def _look_after(self, key: ContextKey, turn_id: str, request: TurnRequest, stored: StoredTurn) -> None:
        active: ActiveContext | None = None
        try:
            async with self._places:
                active = await self._contexts.get(key, stored)
                if active.turns_to_wait:
                    active.turns_to_wait -= 1
                    return
                await self._title(active, turn_id, request)
                for _ in range(_ROUNDS):
                    if not await self._summarise(active, turn_id, request):
                        break
                active.failures = 0
        except (ModelError, StoreError, TimeoutError, KeyError) as error:
            if active is not None:
                # What fails once may fail each time, at a price.
                active.failures += 1
                active.turns_to_wait = min(_LONGEST_WAIT, 2**active.failures - 2)
            _log.warning("a title or summary was not made", reason=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the boundary to an adapter: its bug costs a title, not the gateway
            _log.error("a title or summary failed", reason=type(error).__name__)
        finally:
            self._busy.discard(key)

    # ---- titles

    async def _title(self, active: ActiveContext, turn_id: str, request: TurnRequest) -> None:
        key = active.key
        if not self._options.titles or active.record.title is not None:
            return
        model = self._options.title_model or request.model
        _, path = await self._path(key, turn_id)
        answer = await self._ask(model, title_prompt(path[:1]), key, request.principal)
        title = clean_title(answer)
        if title is None:
            return
        event = new_event(ContextChanged(context_id=key.id, title=title))
        born = active.record.born
        if await self._store.update_context(key, title, None, event, if_untitled=True, born=born):
            await self._epochs.place(key, event)

    # ---- summaries

    async def _summarise(self, active: ActiveContext, turn_id: str, request: TurnRequest) -> bool:
        """Make a summary if one is due; whether another may be."""
        key, model = active.key, request.model
        profile = self._assembler.profile(model)
        if (active.settings.strategy or profile.strategy) != "summarise":
            return False
        writer = self._models.get(self._options.summary_model or model, self._models[model])
        # It must fit where it is made, and be of use where it is read.
        budget = min(budget_of(self._models[model], active), budget_of(writer, active))
        scale = Scale(active, model, profile)
        active, path = await self._path(key, turn_id)
        covered = next((node.id for node in path if node.id in active.summaries), None)
        turns = due(path, covered, budget, scale.cost)
        if not turns:
            return False
        before = active.summaries.get(covered or "")
        words = int(min(_MAX_WORDS, budget * 0.1))
        prompt = summary_prompt(before.text if before is not None else None, turns, words, int(2 * budget))
        text = await self._ask(self._options.summary_model or model, prompt, key, request.principal)
        text = text.strip()[: words * 12]
        if not text:
            return False
        summary = Summary(
            turn_id=turns[-1].id,
            first_id=before.first_id if before is not None else turns[0].id,
            turns=len(turns) + (before.turns if before is not None else 0),
            text=text,
        )
        return await self._store.put_summary(key, summary, active.record.born)

    async def _path(self, key: ContextKey, turn_id: str) -> tuple[ActiveContext, list[Node]]:
        """The context as of now, and the path from the turn back to what a summary covers, or to its beginning;
        newest first."""
        while True:
            active = await self._contexts.get(key)
            nodes: list[Node] = []
            try:
                for node in active.thread.path(turn_id):
                    nodes.append(node)
                    if node.id in active.summaries:
                        break
            except Incomplete:
                await self._contexts.load_older(active)
                continue
            return active, nodes

    # ---- asking

    async def _ask(self, model: str, inputs: Sequence[ModelInput], key: ContextKey, principal: Principal) -> str:
        """What the model says to that, paid for by the principal."""
        client = self._models.get(model)
        if client is None:
            raise ModelError("provider_error", f"The model {model!r} is not configured.", retryable=False)
        await self._assembler.check_budget(principal)
        said: list[str] = []
        end: Finish | None = None
        try:
            async with (
                asyncio.timeout(_SECONDS),
                aclosing(client.stream(ModelRequest(inputs=inputs, owner=key.owner))) as pieces,
            ):
                async for piece in pieces:
                    if isinstance(piece, TextPiece) and piece.channel == "text":
                        said.append(piece.text)
                    elif isinstance(piece, Finish):
                        end = piece
        finally:
            if end is not None or said:
                await self._pay(principal, key, model, inputs, "".join(said), end)
        return "".join(said)

    async def _pay(
        self,
        principal: Principal,
        key: ContextKey,
        model: str,
        inputs: Sequence[ModelInput],
        text: str,
        end: Finish | None,
    ) -> None:
        answered = (end.model if end is not None else None) or model
        if end is not None and end.usage is not None:
            used = self._meter.usage(principal, answered, end.usage)
        else:
            asked = sum(guess(item, rough_count) for item in inputs)
            used = self._meter.estimate(principal, answered, asked, text)
        await self._meter.add(principal, key, new_id("use_"), used)
