"""What model calls use, priced and put into the store with the events that prove it (docs/usage.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.budgets import Budgets
from gateway.core.budget import day_of
from gateway.core.pricing import FREE, MOST, Price, bounded, cost
from gateway.core.tokens import rough_count
from gateway.core.turn_state import Written
from gateway.metrics import Stats
from gateway.models.settings import ModelSettings
from gateway.patience import patiently
from protocol.frames import DurableEvent, Message, Usage
from stores.ports import ContextStore, UsageStore
from stores.records import ContextKey, NewEvent, NewUsage

__all__ = ["Meter", "TurnMeter", "price_of"]


def price_of(model: ModelSettings) -> Price:
    return Price(input=model.input_price, output=model.output_price, cached=model.cached_price)


class Meter:
    """Shared by all turns of an instance. `prices` are by the model's name, which is free where it has none; `clock`
    is in seconds since 1970."""

    def __init__(
        self,
        prices: Mapping[str, Price],
        stats: Stats,
        store: UsageStore | None = None,
        budgets: Budgets | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prices = prices
        self._stats = stats
        self._store = store
        self._budgets = budgets
        self._clock = clock

    def usage(self, principal: Principal, model: str, usage: Usage, *, estimated: bool = False) -> NewUsage:
        """The row of a model call that has just ended."""
        counted = bounded(usage)
        return NewUsage(
            tenant=principal.tenant,
            subject=principal.subject,
            day=day_of(self._clock()),
            model=model,
            input_tokens=counted.input_tokens,
            output_tokens=counted.output_tokens,
            cached_tokens=counted.cached_tokens,
            reasoning_tokens=counted.reasoning_tokens,
            cached_responses=counted.cached_responses,
            cost=cost(counted, self._prices.get(model, FREE)),
            estimated=estimated,
        )

    def estimate(self, principal: Principal, model: str, asked: float, said: str) -> NewUsage:
        """The row of a call of whose tokens its provider told nothing: it was given `asked`, and said `said`."""
        usage = Usage(input_tokens=int(min(asked, MOST)), output_tokens=rough_count(said))
        return self.usage(principal, model, usage, estimated=True)

    async def add(self, principal: Principal, key: ContextKey, id: str, usage: NewUsage) -> None:
        """Add a call that makes no event, once for each `id`. Raises Unavailable."""
        if self._store is not None and await self._store.add_usage(key, id, usage):
            self.stored(principal, usage)

    def stored(self, principal: Principal, usage: NewUsage) -> None:
        """The row is in the store."""
        self._stats.used(usage)
        if self._budgets is not None:
            self._budgets.used(principal, usage)


class TurnMeter:
    """One run of a turn. `asked` is how many tokens the prompt of the open step has, roughly; 0: no model was asked."""

    def __init__(self, meter: Meter, principal: Principal, key: ContextKey, turn_id: str) -> None:
        self.asked = 0.0
        self._meter = meter
        self._principal = principal
        self._key = key
        self._turn_id = turn_id
        self._owed: tuple[str, NewUsage] | None = None

    def metered(self, rows: Sequence[NewEvent], events: Sequence[DurableEvent]) -> list[NewEvent]:
        """The rows of the events, with what they prove to have been used."""
        return [self._metered(row, event) for row, event in zip(rows, events, strict=True)]

    def _metered(self, row: NewEvent, event: DurableEvent) -> NewEvent:
        if not isinstance(event, Message) or event.role != "assistant":
            return row
        usage = self._usage(event)
        if usage is None:
            return row
        self._owed = (row.id, usage)
        return replace(row, usage=usage)

    def stored(self, rows: Sequence[NewEvent], passed: Collection[str] = ()) -> None:
        """The rows are stored, but for the ids that were `passed` over."""
        for row in rows:
            if row.usage is not None:
                self.asked, self._owed = 0.0, None
                if row.id not in passed:
                    self._meter.stored(self._principal, row.usage)

    async def settle(self, store: ContextStore, model: str, opened: Callable[[], Written | None]) -> None:
        """The turn is not ours any more. Where it is nobody's, because its context was deleted under the step, what
        the step used is still owed: else whoever deletes a context before an answer ends would pay for none."""
        owed = self._owed
        written = opened() if owed is None and self.asked else None
        if written is not None:
            owed = (written.message_id, self._meter.estimate(self._principal, model, self.asked, written.text))
        if owed is None or await patiently(lambda: store.load_turn(self._key, self._turn_id)) is not None:
            return
        id, usage = owed
        await patiently(lambda: self._meter.add(self._principal, self._key, id, usage))

    def _usage(self, message: Message) -> NewUsage | None:
        model = message.model or ""
        if message.usage is not None:
            return self._meter.usage(self._principal, model, message.usage)
        said = message.content if isinstance(message.content, str) else ""
        if not said and not self.asked:
            return None  # cancelled before the model was asked
        # A provider that refuses, or fails before it says a word, is taken to charge nothing.
        asked = self.asked if said or message.status != "failed" else 0.0
        return self._meter.estimate(self._principal, model, asked, said)
