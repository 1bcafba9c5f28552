"""Decisions that hold for a context (stores/ports: ContextStore.approve and remembered, OwnerStore.all_remembered)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import pytest

from stores.ports import AlreadyAnswered, ContextStore, NotFound, OwnerStore
from stores.records import Asked, ContextKey, NewCall, NewEvent, Remembered
from tests.stores.context_stores import (
    NEWEST,
    Clock,
    approval,
    open_postgres,
    open_sharded,
    open_sqlite,
    rows_of,
    running,
    turn,
)

A, OTHER, FOREIGN = ContextKey("t/ann", "conv"), ContextKey("t/ann", "other"), ContextKey("t/bob", "conv")
PAY = Asked("pay@1")
YES, NO = Remembered("pay@1", approved=True), Remembered("pay@1", approved=False)


class Store(ContextStore, OwnerStore, Protocol):
    """What an adapter implements."""


@pytest.fixture(params=[open_sqlite, open_sharded, open_postgres], ids=["sqlite", "sharded", "postgres"])
async def owners(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[Store]:
    async with request.param(tmp_path, clock) as opened:
        yield opened


def asking(id: str, turn_id: str = "a", asked: Asked | None = PAY) -> NewEvent:
    call = NewCall(runs_on="server", needs_approval=True, asked=asked)
    return NewEvent(id=id, type="tool_call", body=b"{}", turn_id=turn_id, call=call)


async def ask(store: ContextStore, *ids: str, key: ContextKey = A) -> int:
    """Calls that wait for a person, and the fence of their turn, "a"."""
    fence = (await running(store, key)).fence
    await store.write(key, "a", fence, [asking(id) for id in ids])
    return fence


async def test_what_a_call_asks_about_is_kept_with_it(any_store: ContextStore) -> None:
    fence = (await running(any_store, A)).fence
    calls = [asking("c1"), asking("c2", asked=Asked("pay@2", first=True)), asking("c3", asked=None)]
    await any_store.write(A, "a", fence, calls)
    await any_store.submit(A, asking("d", "d"), turn("d", "tool"))
    told = (await rows_of(any_store, A)).calls
    assert [told[id].asked for id in ("c1", "c2", "c3")] == [PAY, Asked("pay@2", first=True), None]
    direct = await any_store.get_call(A, "d")
    assert direct is not None
    assert direct.asked == PAY


async def test_a_decision_is_remembered_for_its_context_alone(any_store: ContextStore) -> None:
    await ask(any_store, "c1")
    await ask(any_store, "c1", key=OTHER)
    await ask(any_store, "c1", key=FOREIGN)
    assert await any_store.remembered(A, "pay@1") is None
    await any_store.approve(A, approval("p1", "c1", "a"), YES)
    assert await any_store.remembered(A, "pay@1") is True
    assert await any_store.remembered(A, "pay@2") is None
    assert await any_store.remembered(OTHER, "pay@1") is None
    assert await any_store.remembered(FOREIGN, "pay@1") is None
    assert await any_store.remembered(ContextKey("t/ann", "unknown"), "pay@1") is None


async def test_a_decision_that_nobody_wanted_remembered_is_not(any_store: ContextStore) -> None:
    await ask(any_store, "c1")
    await any_store.approve(A, approval("p1", "c1", "a"))
    assert await any_store.remembered(A, "pay@1") is None


async def test_the_later_decision_takes_the_place_of_the_earlier(any_store: ContextStore) -> None:
    fence = await ask(any_store, "c1", "c2")
    await any_store.approve(A, approval("p1", "c1", "a"), YES)
    assert await any_store.park(A, "a", fence, NEWEST)
    assert (await any_store.approve(A, approval("p2", "c2", "a"), NO)).woken
    assert await any_store.remembered(A, "pay@1") is False


async def test_what_was_refused_or_stored_before_changes_nothing(any_store: ContextStore) -> None:
    await ask(any_store, "c1")
    with pytest.raises(NotFound):
        await any_store.approve(A, approval("p0", "unknown", "a"), NO)
    assert await any_store.remembered(A, "pay@1") is None
    await any_store.approve(A, approval("p1", "c1", "a"), YES)
    assert (await any_store.approve(A, approval("p1", "c1", "a"), NO)).duplicate
    with pytest.raises(AlreadyAnswered):
        await any_store.approve(A, approval("p2", "c1", "a"), NO)
    assert await any_store.remembered(A, "pay@1") is True


async def test_of_decisions_at_the_same_moment_the_one_that_counts_is_remembered(any_store: ContextStore) -> None:
    await ask(any_store, "c1")
    answers = await asyncio.gather(
        *(any_store.approve(A, approval(f"p{n}", "c1", "a"), (NO, YES)[n]) for n in range(2)), return_exceptions=True
    )
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, AlreadyAnswered)]
    assert len(refused) == 1
    assert await any_store.remembered(A, "pay@1") is (refused == [0])


async def test_nothing_is_remembered_of_a_context_that_was_deleted(any_store: ContextStore) -> None:
    await ask(any_store, "c1")
    await any_store.approve(A, approval("p1", "c1", "a"), YES)
    assert await any_store.delete_context(A)
    assert await any_store.remembered(A, "pay@1") is None
    await any_store.create_context(A, None, None)
    assert await any_store.remembered(A, "pay@1") is None


async def test_all_that_is_remembered_is_handed_out_by_its_name(owners: Store) -> None:
    await ask(owners, "c1", "c2")
    await owners.approve(A, approval("p1", "c1", "a"), Remembered("read@1", approved=True))
    await owners.approve(A, approval("p2", "c2", "a"), NO)
    assert await owners.all_remembered(A) == [NO, Remembered("read@1", approved=True)]
    assert await owners.all_remembered(OTHER) == []
    await owners.delete_context(A)
    assert await owners.all_remembered(A) == []
