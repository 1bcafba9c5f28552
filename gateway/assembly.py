"""What a model is given for the next step of a turn: the path of the conversation, as much of it as fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from gateway.active_context import ActiveContext
from gateway.active_contexts import ActiveContexts
from gateway.auth.principal import Principal
from gateway.budgets import Budgets
from gateway.core.inputs import ModelInput, TextInput
from gateway.core.stored_turn import StoredTurn
from gateway.core.thread import Incomplete, Node
from gateway.core.tokens import Calibration, Count, Weight, guess, rough_count
from gateway.core.turn_inputs import EVERYTHING
from gateway.core.window import TooLong, Window, choose, shorten
from gateway.models.port import ModelClient, ModelError, ModelRequest
from gateway.patience import patiently
from gateway.routing import Routes
from gateway.turn_request import TurnRequest
from protocol.frames import ToolSpec, Usage
from stores.records import ContextKey, Turn

__all__ = ["Assembler", "Profile", "Prompt", "Scale", "budget_of"]

_KEPT_BYTES: Final = 4 * 1024 * 1024
_BYTES_A_TOKEN: Final = 256
"""A context that holds more bytes than these, in all and for each token that fits, is read anew, its newest only."""

_SUMMARY: Final = "[What was said before, in short]\n"


class Profile(Struct, kw_only=True):
    """What is known of a model besides its client: the operator's `system` message, what happens to what does not
    fit, how its tokens are counted, and how far that is from what its provider counts."""

    system: str | None = None
    strategy: str = "trim"
    count: Count = rough_count
    calibration: Calibration = msgspec.field(default_factory=lambda: Calibration(0.2))


class Scale:
    """What things cost a model in one context: as its provider counted there or, before it did, elsewhere."""

    def __init__(self, active: ActiveContext, model: str, profile: Profile) -> None:
        self._count = profile.count
        self._everywhere = profile.calibration
        self._here = active.calibrations.setdefault(model, Calibration(1.0))

    def tokens(self, weight: Weight) -> float:
        return (self._here if self._here.learnt else self._everywhere).tokens(weight)

    def weight(self, inputs: Sequence[ModelInput]) -> Weight:
        return Weight(0.0, sum(guess(item, self._count) for item in inputs))

    def tools(self, tools: Sequence[ToolSpec]) -> Weight:
        return Weight(0.0, self._count(msgspec.json.encode(tools).decode()) if tools else 0)

    def node(self, node: Node) -> Weight:
        return node.weight(self._count)

    def cost(self, node: Node) -> float:
        return self.tokens(self.node(node))

    def item_cost(self, item: ModelInput) -> float:
        return self.tokens(self.weight([item]))

    def counted(self, weight: Weight, usage: Usage | None) -> None:
        """The provider has counted what we weighed so."""
        if usage is not None and usage.input_tokens and not usage.cached_responses:
            self._here.observe(weight, usage.input_tokens)
            self._everywhere.observe(weight, usage.input_tokens)

    def too_low(self) -> None:
        """The provider found too long what we took to fit."""
        self._here.ratio = max(self._here.ratio, self._everywhere.ratio)
        self._here.too_low()


class Prompt(Struct, frozen=True):
    """A request, and what it weighs."""

    request: ModelRequest
    weight: Weight
    scale: Scale

    @property
    def tokens(self) -> float:
        """How many tokens the provider will count, as far as we know."""
        return self.scale.tokens(self.weight)

    def counted(self, usage: Usage | None) -> None:
        self.scale.counted(self.weight, usage)


class Assembler:
    """Makes the prompts of all turns. `models` and `profiles` are by name."""

    def __init__(
        self,
        contexts: ActiveContexts,
        models: Mapping[str, ModelClient],
        routes: Routes,
        profiles: Mapping[str, Profile] | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self._contexts = contexts
        self._models = models
        self._routes = routes
        self._profiles = dict(profiles or {})
        self._budgets = budgets

    def profile(self, model: str) -> Profile:
        return self._profiles.setdefault(model, Profile())

    async def assemble(
        self,
        turn: Turn,
        request: TurnRequest,
        stored: StoredTurn,
        reads: str | None = EVERYTHING,
        most: float | None = None,
    ) -> Prompt:
        """The turn's next model call, of `most` tokens, or (None) as many as the model reads; `stored` is what its
        runner knows of the turn, `reads` the last steering message that the step is given. Raises ModelError where the
        model is gone, a budget is used up, or the turn alone is too long."""
        model = self._models.get(request.model)
        if model is None:
            raise ModelError(
                "provider_error", f"The model {request.model!r} is not configured any more.", retryable=False
            )
        await self.check_budget(request.principal)
        tools = await self._routes.offered(request)
        active = await self._contexts.get(turn.key, stored)
        active.thread.give(turn.id, reads)
        scale = Scale(active, request.model, self.profile(request.model))
        opening: list[ModelInput] = [
            TextInput("system", text)
            for text in (self.profile(request.model).system, active.settings.system)
            if text is not None
        ]
        weight = scale.weight(opening).plus(scale.tools(tools))
        budget = min(budget_of(model, active), most or math.inf) - scale.tokens(weight)
        inputs: list[ModelInput] = opening
        try:
            window = await self._window(active, request.model, turn.id, budget, scale)
        except TooLong:
            window = None
        if window is None:
            alone = await self._alone(active, turn.id, budget, scale)
            if alone is None:
                raise ModelError(
                    "context_too_long",
                    f"This turn alone is longer than the {model.context_window} tokens that {model.name!r} can read.",
                    retryable=False,
                )
            inputs += alone
            weight = weight.plus(scale.weight(alone))
        else:
            summary = active.summaries.get(window.summary or "")
            told: list[ModelInput] = [TextInput("user", _SUMMARY + summary.text)] if summary is not None else []
            inputs += [item for node in window.pinned for item in node.inputs]
            inputs += told
            inputs += [item for node in window.turns for item in node.inputs]
            weight = weight.plus(scale.weight(told))
            for node in (*window.pinned, *window.turns):
                weight = weight.plus(scale.node(node))
        first = active.thread[turn.id].first
        fresh = first is not None and first.replaces is not None
        if active.size > max(_KEPT_BYTES, _BYTES_A_TOKEN * budget):
            active.unload()
        return Prompt(ModelRequest(inputs=inputs, tools=tools, owner=turn.key.owner, fresh=fresh), weight, scale)

    async def turn_over(self, key: ContextKey, stored: StoredTurn) -> None:
        """A turn has ended: what it added to the conversation is left to other instances."""
        await self._contexts.turn_over(key, stored)

    async def check_budget(self, principal: Principal) -> None:
        """Raises ModelError where a budget is used up."""
        budgets = self._budgets
        if budgets is None:
            return
        refused = await patiently(lambda: budgets.check(principal))
        if refused is not None:
            raise ModelError(refused.code, refused.message, retryable=False, retry_after=refused.retry_after)

    async def _window(self, active: ActiveContext, model: str, turn_id: str, budget: float, scale: Scale) -> Window:
        pinned = [node for node in await self._contexts.load_pinned(active) if node.id != turn_id]
        strategy = active.settings.strategy or self.profile(model).strategy
        summaries = active.summaries if strategy == "summarise" else {}
        costs = {id: scale.item_cost(TextInput("user", _SUMMARY + found.text)) for id, found in summaries.items()}
        while True:
            try:
                window = choose(
                    active.thread.path(turn_id),
                    budget,
                    scale.cost,
                    pinned=pinned,
                    summaries=costs,
                    last=active.cuts.get(model),
                )
            except Incomplete:
                await self._contexts.load_older(active)
                continue
            except TooLong:
                rules = [node for node in pinned if node.first is not None and node.first.role == "system"]
                if rules == pinned:
                    raise
                pinned = rules  # what a user pinned is worth less than an answer
                continue
            active.cuts[model] = window.cut
            return window

    async def _alone(self, active: ActiveContext, turn_id: str, budget: float, scale: Scale) -> list[ModelInput] | None:
        """The running turn with what the operator said, its tool results shortened until they fit."""
        inputs: list[ModelInput] = []
        for node in await self._contexts.load_pinned(active):
            if node.first is not None and node.first.role == "system":
                inputs += node.inputs
        return shorten([*inputs, *active.thread[turn_id].inputs], budget, scale.item_cost)


def budget_of(model: ModelClient, active: ActiveContext) -> float:
    """The tokens that a prompt may have."""
    budget = model.context_window - model.max_tokens
    return min(budget, active.settings.max_context_tokens or budget)
