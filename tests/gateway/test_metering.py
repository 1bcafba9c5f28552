"""From events to rows of usage; what is owed when a turn is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import pytest

from gateway.auth.principal import Principal
from gateway.budgets import Budgets
from gateway.core.budget import Budget
from gateway.core.pricing import MOST, Price
from gateway.core.turn_state import Written
from gateway.metering import Meter, TurnMeter, price_of
from gateway.metrics import Stats
from gateway.models.settings import ModelSettings
from gateway.stored_events import new_event
from protocol.frames import Message, Usage
from stores.records import ContextKey, NewEvent, NewUsage, UsageRow
from stores.sqlite import SqliteStore
from tests.stores.context_stores import running

ANN = Principal(tenant="t", subject="ann")
KEY = ContextKey("t/ann", "chat")
NOW = 1_767_225_599.0  # 2025-12-31T23:59:59Z
PRICES = {"demo": Price(input=1, output=2)}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db")
    yield opened
    await opened.close()


def make(store: SqliteStore | None = None, budgets: Budgets | None = None) -> tuple[Meter, Stats]:
    stats = Stats()
    return Meter(PRICES, stats, store, budgets, lambda: NOW), stats


def turn_meter(meter: Meter, asked: float = 0.0) -> TurnMeter:
    made = TurnMeter(meter, ANN, KEY, "a")
    made.asked = asked
    return made


def message(
    text: str = "",
    status: Literal["complete", "truncated", "cancelled", "failed"] = "complete",
    usage: Usage | None = None,
    role: Literal["assistant", "user"] = "assistant",
    model: str | None = "demo",
) -> Message:
    return Message(
        context_id="chat",
        turn_id="a",
        id="m1",
        content=text,
        role=role,
        timestamp="2025-12-31T23:59:59.000Z",
        status=status,
        model=model,
        usage=usage,
    )


def metered(meter: TurnMeter, event: Message) -> NewUsage | None:
    (row,) = meter.metered([new_event(event)], [event])
    return row.usage


async def total(store: SqliteStore) -> UsageRow:
    return (await store.usage("t", "t/ann", "2000-01-01", "2999-01-01", "day", None, 10)).total


def test_the_price_of_a_model() -> None:
    settings = ModelSettings(provider="demo", input_price=1, output_price=2, cached_price=0.5)
    assert price_of(settings) == Price(input=1, output=2, cached=0.5)


def test_what_the_provider_told_is_priced_by_the_model_that_answered() -> None:
    meter, _ = make()
    told = Usage(input_tokens=10, output_tokens=5, cached_tokens=3, reasoning_tokens=2)
    row = metered(turn_meter(meter, 99), message("words", usage=told))
    assert row == NewUsage(
        tenant="t",
        subject="ann",
        day="2025-12-31",
        model="demo",
        input_tokens=10,
        output_tokens=5,
        cached_tokens=3,
        reasoning_tokens=2,
        cost=20,
    )
    other = metered(turn_meter(meter), message("words", usage=told, model="fallback"))
    assert other is not None
    assert (other.model, other.cost) == ("fallback", 0)


def test_figures_that_lie_still_fit_into_the_store() -> None:
    row = metered(turn_meter(make()[0]), message(usage=Usage(input_tokens=-5, output_tokens=1 << 80)))
    assert row is not None
    assert (row.input_tokens, row.output_tokens, row.cost) == (0, MOST, MOST)


@pytest.mark.parametrize(
    ("asked", "event", "tokens"),
    [
        (50, message("four"), (50, 1)),
        (50, message("", "cancelled"), (50, 0)),
        (50, message("four", "failed"), (50, 1)),
        (50, message("", "failed"), (0, 0)),
        (50, message("", "truncated"), (50, 0)),
        (0, message("four", "truncated"), (0, 1)),
    ],
    ids=["no figures", "cancelled", "broke off", "refused", "only calls", "of a runner that died"],
)
def test_where_no_figures_came_they_are_estimated(asked: float, event: Message, tokens: tuple[int, int]) -> None:
    row = metered(turn_meter(make()[0], asked), event)
    assert row is not None
    assert row.estimated
    assert (row.input_tokens, row.output_tokens) == tokens


def test_what_asked_no_model_is_no_step() -> None:
    meter = make()[0]
    assert metered(turn_meter(meter), message("", "cancelled")) is None
    assert metered(turn_meter(meter, 5), message("hello", role="user", model=None)) is None


def test_what_is_stored_is_counted_and_what_was_passed_over_is_not() -> None:
    meter, stats = make()
    event = message("words", usage=Usage(input_tokens=10, output_tokens=5, cached_tokens=3))
    made = turn_meter(meter)
    rows: list[NewEvent] = made.metered([new_event(event)], [event])
    made.stored(rows)
    made.stored(rows, ["m1"])
    for kind, tokens in {"input": 10, "output": 5, "cached": 3, "reasoning": 0}.items():
        labels = {"model": "demo", "kind": kind}
        assert stats.registry.get_sample_value("tidegate_tokens_total", labels) == tokens


async def test_a_call_without_an_event_is_added_once_and_seen_by_budgets(store: SqliteStore) -> None:
    budgets = Budgets([Budget(name="b", tokens_per_day=15)], store, lambda: NOW)
    meter, stats = make(store, budgets)
    assert await budgets.check(ANN) is None
    usage = meter.usage(ANN, "demo", Usage(input_tokens=10, output_tokens=5))
    for _ in range(2):
        await meter.add(ANN, KEY, "title", usage)
    assert (await total(store)).steps == 1
    assert stats.registry.get_sample_value("tidegate_tokens_total", {"model": "demo", "kind": "input"}) == 10
    assert await budgets.check(ANN) is not None


# ---- when the turn is gone


def opened() -> Written:
    return Written("m1", 1, "four")


async def test_a_step_whose_context_was_deleted_is_owed_once(store: SqliteStore) -> None:
    meter, _ = make(store)
    for _ in range(2):  # two runners that had lost it one after the other
        await turn_meter(meter, 50).settle(store, "demo", opened)
    found = await total(store)
    assert (found.input_tokens, found.output_tokens, found.steps, found.estimated_steps) == (50, 1, 1, 1)


async def test_a_step_that_could_not_be_stored_is_owed_as_told(store: SqliteStore) -> None:
    made = turn_meter(make(store)[0], 50)
    metered(made, message("words", usage=Usage(input_tokens=10, output_tokens=5)))
    await made.settle(store, "demo", lambda: None)
    found = await total(store)
    assert (found.input_tokens, found.output_tokens, found.estimated_steps) == (10, 5, 0)


async def test_a_turn_that_another_runs_is_counted_by_that_one(store: SqliteStore) -> None:
    await running(store, KEY)
    await turn_meter(make(store)[0], 50).settle(store, "demo", opened)
    assert (await total(store)).steps == 0


async def test_nothing_is_owed_where_no_model_was_asked_or_all_is_stored(store: SqliteStore) -> None:
    meter = make(store)[0]
    await turn_meter(meter).settle(store, "demo", opened)
    made = turn_meter(meter, 50)
    event = message("words", usage=Usage(input_tokens=10, output_tokens=5))
    made.stored(made.metered([new_event(event)], [event]))
    await made.settle(store, "demo", opened)
    await turn_meter(meter, 50).settle(store, "demo", lambda: None)
    assert (await total(store)).steps == 0
