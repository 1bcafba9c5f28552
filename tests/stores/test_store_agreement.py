"""The stores give the answers that ReferenceStore gives, whatever they are asked."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from protocol.frames import WhenBusy
from stores.ports import ContextStore, StoreError, UsageStore
from stores.records import (
    Accepted,
    Claimed,
    ContextKey,
    EventRow,
    NewEvent,
    Remembered,
    Summary,
    Turn,
    TurnRows,
    TurnState,
    UsageBy,
    UsagePage,
)
from tests.stores.context_stores import (
    ALL,
    approval,
    direct_call,
    end,
    message,
    open_postgres,
    open_reference,
    open_sharded,
    open_sqlite,
    response,
    tool_call,
    turn,
    used,
)

KEYS = [ContextKey("t/ann", "conv_a"), ContextKey("t/ann", "conv_b")]
TURNS = ["t0", "t1", "t2", "d0"]  # d0 is a direct call, and its turn
CURRENT = "current"  # the turn that is under way, or the next one
CALLS = ["c0", "c1", "c2", "d0"]
MODES: list[WhenBusy] = ["queue", "interrupt", "reject", "steer"]


class Step(Struct, frozen=True):
    """One call. `n` and `well` say more of it: a number, and whether the epoch or fence is the right one. What depends
    on earlier answers (epochs, fences, orders, seqs) is read from the store that is asked, so stores that agree are
    asked the same."""

    act: str
    key: ContextKey
    turn: str
    n: int
    well: bool


Act = Callable[[ContextStore, Step], Awaitable[object]]


async def _fence(store: ContextStore, step: Step) -> int:
    rows = await store.load_turn(step.key, step.turn)
    fence = rows.turn.fence if rows is not None else 0
    return max(1, fence if step.well else fence - 1)  # nobody holds 0


async def _epoch(store: ContextStore, step: Step) -> int:
    record = await store.get_context(step.key)
    return (record.epoch if record is not None else 0) + (0 if step.well else 1)


async def _seen(store: ContextStore, step: Step) -> int:
    """The order of all but the last `n` of what was stored for the turn."""
    rows, cancels, _ = await store.inputs(step.key, step.turn, 0)
    orders = sorted(stored.order for stored in (*rows, *cancels))
    return orders[-1 - step.n] if step.n < len(orders) else 0


async def _turn_of_call(store: ContextStore, step: Step) -> tuple[str, str]:
    call_id = CALLS[step.n]
    call = await store.get_call(step.key, call_id)
    return call_id, call.turn_id if call is not None else "unknown"


# ---- acts


async def _create(store: ContextStore, step: Step) -> object:
    return await store.create_context(step.key, None, None)


async def _update(store: ContextStore, step: Step) -> object:
    number = len((await store.history(step.key, None, ALL)).rows) + len(await store.unsequenced(step.key))
    event = NewEvent(id=f"x{number}", type="context", body=b"{}")
    return await store.update_context(
        step.key,
        f"title {step.n}" if step.n else None,
        b"{}" if step.well else None,
        event,
        settings=b'{"n":%d}' % step.n,
        pins=[f"m{step.n}", f"m{step.n}", "u0"] if step.n == 2 else None,
        if_untitled=step.n == 3,
    )


async def _summarise(store: ContextStore, step: Step) -> object:
    summary = Summary(turn_id=step.turn, first_id="t0", turns=step.n, text=f"summary {step.n}")
    record = await store.get_context(step.key)
    born = record.born if record is not None else 0
    return await store.put_summary(step.key, summary, born if step.well else born - 1)


async def _delete(store: ContextStore, step: Step) -> object:
    return step.n == 0 and await store.delete_context(step.key)


async def _raise_epoch(store: ContextStore, step: Step) -> object:
    raised = await store.raise_epoch(step.key, await _epoch(store, step))
    return raised and raised[1]


async def _submit(store: ContextStore, step: Step) -> object:
    if step.turn == "d0":
        return await store.submit(step.key, *direct_call("d0"), MODES[step.n], 2)
    return await store.submit(step.key, message(step.turn, step.turn), turn(step.turn), MODES[step.n], 1 + step.well)


async def _submit_free(store: ContextStore, step: Step) -> object:
    taken = step.turn if step.well else f"u{step.n}"  # "d0" is another kind of event
    return await store.submit(step.key, replace(message(taken), pinned=step.n == 0), None)


async def _steer(store: ContextStore, step: Step) -> object:
    name = f"s{step.n}" if step.well else CALLS[step.n]
    return await store.steer(step.key, step.turn, message(name, step.turn))


async def _cancel_turn(store: ContextStore, step: Step) -> object:
    return await store.cancel(step.key, f"x{step.n}", step.turn if step.well else None, None)


async def _cancel_call(store: ContextStore, step: Step) -> object:
    return await store.cancel(step.key, f"y{step.turn}", None, CALLS[step.n])


async def _answer(store: ContextStore, step: Step) -> object:
    call_id, turn_id = await _turn_of_call(store, step)
    event = response(f"r{step.turn}", call_id, turn_id)
    return await store.answer(step.key, event, "s1" if step.well else None)


async def _approve(store: ContextStore, step: Step) -> object:
    call_id, turn_id = await _turn_of_call(store, step)
    remember = Remembered("pay", approved=step.well) if step.n % 2 else None
    event = replace(approval(f"p{step.turn}", call_id, turn_id), denies=step.n == 0)
    return await store.approve(step.key, event, remember)


async def _claim(store: ContextStore, step: Step) -> object:
    rows = await store.load_turn(step.key, step.turn)
    fence = rows.turn.fence if rows is not None else 0
    return await store.claim(step.key, step.turn, f"inst{step.n % 2}", fence if step.well else fence - 1)


async def _write(store: ContextStore, step: Step) -> object:
    runs_on: Literal["server", "client"] = "client" if step.n % 2 else "server"
    events = [replace(message(f"m{step.n}", step.turn), usage=used(f"2026-01-0{1 + step.n}"))]
    if step.n < 3:
        session_id = "s1" if step.n == 1 else None
        draft = b"{}" if step.n == 2 else None
        call = tool_call(
            CALLS[step.n], step.turn, runs_on, session_id=session_id, needs_approval=step.n > 0, draft=draft
        )
        events.append(call)
    return await store.write(step.key, step.turn, await _fence(store, step), events)


async def _respond(store: ContextStore, step: Step) -> object:
    call_id, turn_id = await _turn_of_call(store, step)
    if turn_id != step.turn:
        return None
    events = [response(f"r{step.n}", call_id, turn_id), response(f"q{step.n}", call_id, turn_id)]
    return await store.write(step.key, step.turn, await _fence(store, step), events)


async def _claim_call(store: ContextStore, step: Step) -> object:
    call_id, turn_id = await _turn_of_call(store, step)
    return turn_id == step.turn and await store.claim_call(step.key, turn_id, await _fence(store, step), call_id)


async def _end(store: ContextStore, step: Step) -> object:
    events = [message(f"m{step.n}", step.turn), end(step.turn)]
    fence, seen = await _fence(store, step), await _seen(store, step)
    return await store.end_turn(step.key, step.turn, fence, events, seen)


async def _park(store: ContextStore, step: Step) -> object:
    # Woken at once, never, or in a time that does not come.
    wake_at = (0.0, None, 1e12, 1e12)[step.n]
    return await store.park(step.key, step.turn, await _fence(store, step), await _seen(store, step), wake_at)


async def _release(store: ContextStore, step: Step) -> object:
    return await store.release(step.key, step.turn, await _fence(store, step))


async def _record(store: ContextStore, step: Step) -> object:
    newest = (await store.history(step.key, None, 1)).rows
    seqs = count(1 + sum(row.seq or 0 for row in newest))
    rows = [row.id for row, _ in await store.unsequenced(step.key, step.turn if step.n == 3 else None)]
    some = rows[step.n % 2 :: 1 + step.n % 2]
    names = [*reversed(some), *(row.id for row in newest), "unknown"]
    return await store.record(step.key, await _epoch(store, step), dict(zip(names, seqs, strict=False)))


ACTS: dict[str, Act] = {
    "create": _create,
    "update": _update,
    "summarise": _summarise,
    "delete": _delete,
    "raise_epoch": _raise_epoch,
    "submit": _submit,
    "submit_free": _submit_free,
    "steer": _steer,
    "cancel_turn": _cancel_turn,
    "cancel_call": _cancel_call,
    "answer": _answer,
    "approve": _approve,
    "claim": _claim,
    "write": _write,
    "respond": _respond,
    "claim_call": _claim_call,
    "end": _end,
    "park": _park,
    "release": _release,
    "record": _record,
}
# What a turn needs to get on comes more often than the rest.
OFTEN = ["submit", "claim", "claim", "write", "respond", "steer", "answer", "approve", "cancel_call", "end", "park"]

STEPS = st.builds(
    Step,
    st.sampled_from([*OFTEN, *ACTS]),
    st.sampled_from([*KEYS[:1] * 4, *KEYS]),
    st.sampled_from([*[CURRENT] * 4, *TURNS]),
    st.integers(0, 3),
    st.sampled_from([True, True, True, False]),
)


# ---- what is compared


class Asked(ContextStore, UsageStore, Protocol):
    """What a store is asked for here."""


OpenAsked = Callable[[Path, Callable[[], float]], AbstractAsyncContextManager[Asked]]

# ---- what can be compared: no times


def _comparable(answer: Any) -> Any:
    if isinstance(answer, Turn):
        return replace(answer, created_at=0)
    if isinstance(answer, EventRow):
        return replace(answer, stored_at=0)
    if isinstance(answer, TurnRows):
        calls = sorted(answer.calls.values(), key=lambda call: call.id)
        return _comparable([answer.turn, *answer.events]), calls, list(answer.cancels)
    if isinstance(answer, Claimed):
        return _comparable(answer.rows), answer.newest
    if isinstance(answer, Accepted):
        return replace(answer, epoch=None)  # each store counts them from somewhere else
    if isinstance(answer, list | tuple):
        items: list[Any] = [_comparable(item) for item in answer]  # pyright: ignore[reportUnknownVariableType]
        return items
    return answer


async def _thread(store: ContextStore, key: ContextKey) -> object:
    """The newest of a conversation, what is older, and what is newer than the oldest of those."""
    newest = await store.thread(key, None, 3)
    if newest is None:
        return None
    looks: list[object] = [await store.find_event(key, "m1")]
    if newest.rows:
        first = newest.rows[0].order
        newer = await store.thread(key, first, 2)
        looks += [await store.older(key, first, 2), list(newer.rows) if newer is not None else None]
    context = replace(newest.context, created_at=0, updated_at=0, epoch=0, born=0)
    return _comparable([list(newest.rows), looks]), list(newest.summaries), list(newest.pins), context, newest.more


async def _ask(asked: Awaitable[object]) -> object:
    try:
        return _comparable(await asked)
    except StoreError as error:
        return type(error)


async def _look(store: ContextStore) -> dict[str, object]:
    """All that a store tells of its state."""
    asked: dict[str, Awaitable[object]] = {
        "turns_to_run": store.turns_to_run(["inst0"], ALL),
        "first_to_run": store.turns_to_run([], 2),
    }
    for key in KEYS:
        asked |= {f"{key.id} {name}": store.load_turn(key, name) for name in TURNS}
        asked |= {f"{key.id} call {name}": store.get_call(key, name) for name in CALLS}
        asked |= {
            f"{key.id} unsequenced": store.unsequenced(key),
            f"{key.id} unsequenced of t0": store.unsequenced(key, "t0"),
            f"{key.id} next": store.next_turn(key),
            f"{key.id} thread": _thread(store, key),
            f"{key.id} active": store.active_turn(key),
            f"{key.id} open calls": store.open_calls(key, 4),
            f"{key.id} remembered": store.remembered(key, "pay"),
        }
    looks = dict(zip(asked, await asyncio.gather(*map(_ask, asked.values())), strict=True))
    for key in KEYS:
        for before in (None, 4):
            page = await store.history(key, before, 3)
            looks[f"{key.id} history {before}"] = (
                _comparable(list(page.rows)),
                _comparable(list(page.unsequenced)),
                page.has_more,
            )
    looks["stray"] = set(await store.stray_contexts(ALL))
    return looks


async def _look_at_usage(store: UsageStore) -> list[UsagePage]:
    groups: list[UsageBy] = ["day", "context"]
    return [await store.usage("t", "t/ann", "2026-01-01", "2026-01-31", by, None, ALL) for by in groups]


async def _aimed(store: ContextStore, step: Step) -> Step:
    """The step with the name of the turn that it means."""
    if step.turn != CURRENT:
        return step
    if step.act == "submit":
        return replace(step, turn=TURNS[step.n])
    found = await store.active_turn(step.key) or await store.next_turn(step.key)
    for name in () if found is not None else TURNS:
        rows = await store.load_turn(step.key, name)
        if rows is not None and rows.turn.state is TurnState.ENDED:
            found = rows.turn
    return replace(step, turn=found.id if found is not None else "t0")


async def _agree(open_store: OpenAsked, steps: list[Step]) -> None:
    ticks = count(1000)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_store(Path(folder), lambda: float(next(ticks))) as tested,
            open_reference(Path(folder), lambda: 0.0) as reference,
        ):
            for drawn in steps:
                step = await _aimed(reference, drawn)
                act = ACTS[step.act]
                assert await _ask(act(tested, step)) == await _ask(act(reference, step)), step
                assert await _look(tested) == await _look(reference), step
                assert await _look_at_usage(tested) == await _look_at_usage(reference), step


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, min_size=30, max_size=80))
def test_the_stores_agree_whatever_they_are_asked(steps: list[Step]) -> None:
    asyncio.run(_agree(open_sqlite, steps))


@settings(max_examples=10, deadline=None)
@given(st.lists(STEPS, min_size=30, max_size=80))
def test_shards_agree_with_one_store_whatever_they_are_asked(steps: list[Step]) -> None:
    asyncio.run(_agree(open_sharded, steps))


@settings(max_examples=8, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=50))
def test_postgres_agrees_whatever_it_is_asked(steps: list[Step]) -> None:
    asyncio.run(_agree(open_postgres, steps))
