"""The contract in one property (docs/design.md, The one idea): whatever happens to instances, log, sockets and people,
every reader's fold equals the history's fold, nothing that was acknowledged is lost, no turn hangs, and nothing that
must not run twice does. TIDEGATE_EXAMPLES says how many worlds are tried."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from gateway.core.resources import READ_RESOURCE
from protocol.codec import decode_durable, with_seq
from protocol.frames import DurableEvent, Message, ToolApproval, ToolCall, ToolResponse, TurnEnd
from stores.records import TurnState
from tests.contract_world import KEY, World
from tests.virtual_time import run_virtually

EXAMPLES = int(os.environ.get("TIDEGATE_EXAMPLES", "300"))
FIRST = int(os.environ.get("TIDEGATE_FIRST_EXAMPLE", "0"))


async def live(seed: int) -> None:
    world = World(seed)
    await asyncio.sleep(0)
    for _ in range(world.chance.randrange(5, 60)):
        await world.happen()
        for instance in world.instances:
            instance.check()
    await settle(world)
    check(world, await history(world))
    for instance in world.instances:
        await instance.kill()


async def settle(world: World) -> None:
    """Nothing more goes wrong, people answer what they are asked: everything must come to its end."""
    world.flaky = world.deadly = world.lossy = 0.0
    for instance in tuple(world.instances):
        if instance.dead:
            await world.kill(instance)
        instance.go_on()
    for device in world.devices:
        await device.cut()
        device.catch_up()
        world.instances[0].ask(device.connect(world.instances[0]))
    for _ in range(400):
        await asyncio.sleep(0.5)
        done = all(turn.state is TurnState.DONE for turn in world.store.turns())
        if done and all(row.seq is not None for row in world.store.rows(KEY)):
            await asyncio.sleep(7)  # a last publication that was lost is found out within six seconds
            return
        world.decide(world.instances[0])
    states = [(turn.id, turn.kind, turn.state, turn.runner) for turn in world.store.turns()]
    raise AssertionError(f"a turn hangs: {states}")


async def history(world: World) -> list[DurableEvent]:
    rows = sorted(world.store.rows(KEY), key=lambda row: row.seq or 0)
    return [decode_durable(with_seq(row.body, row.seq or 0)) for row in rows]


def check(world: World, events: list[DurableEvent]) -> None:
    seqs = [event.seq for event in events]
    assert len(set(seqs)) == len(seqs), "a seq is given once"
    stored = {event.id for event in events if isinstance(event, Message | ToolCall)}
    assert set(world.acknowledged) <= stored, "what was acknowledged is kept"
    calls = [event.id for event in events if isinstance(event, ToolCall)]
    answered = Counter(event.tool_call_id for event in events if isinstance(event, ToolResponse))
    assert answered == dict.fromkeys(calls, 1), "one answer to each call"
    ends = Counter(event.turn_id for event in events if isinstance(event, TurnEnd))
    assert ends == {turn.id: 1 for turn in world.store.turns()}, "one end to each turn"
    check_questions(world, events)
    check_waiting(events)
    again = {e.id for e in events if isinstance(e, ToolCall) and e.tool in ("lookup", READ_RESOURCE)}
    twice = {call_id for call_id, times in world.runs.items() if times > 1}
    assert twice <= again, "nothing is run twice that must not be"
    denied = {event.tool_call_id for event in events if isinstance(event, ToolApproval) and not event.approved}
    assert not any(world.runs[call_id] for call_id in denied), "what was denied is not run"
    for device in world.devices:
        if not events:
            continue
        known = device.transcript
        expected = events[-len(known.events) :] if known.has_more else events
        assert known.events == expected, "a reader's fold is the history's"
        assert known.cursor is not None
        assert not known.partial
        assert not known.running


def check_questions(world: World, events: list[DurableEvent]) -> None:
    """What a tool was told is stored, before the end of its call, and what its user decided."""
    answers = {event.tool_call_id: event for event in events if isinstance(event, ToolResponse)}
    decisions = {event.tool_call_id: event for event in events if isinstance(event, ToolApproval)}
    stored: Counter[tuple[str, str]] = Counter()
    for question in events:
        if isinstance(question, ToolCall) and question.asked_by is not None:
            answer, asking = answers[question.id], answers[question.asked_by]
            assert events.index(answer) < events.index(asking), "a question is answered before its call"
            if answer.status != "cancelled":
                decision = decisions[question.id]
                assert (answer.status, answer.result) == (
                    ("success", decision.parameters or {}) if decision.approved else ("denied", None)
                )
            stored[question.asked_by, answer.status] += 1
    for action, status in (("accept", "success"), ("decline", "denied")):
        told = {call_id: times for (call_id, heard), times in world.heard.items() if heard == action}
        assert all(times <= stored[call_id, status] for call_id, times in told.items())


def check_waiting(events: list[DurableEvent]) -> None:
    """Whoever decided in time was heard, so nobody is told that no one did."""
    decided = {event.tool_call_id for event in events if isinstance(event, ToolApproval)}
    late = {event.tool_call_id for event in events if isinstance(event, ToolResponse) and event.status == "timeout"}
    assert all(call.tool in ("pay", "browser") for call in events if isinstance(call, ToolCall) and call.id in late)
    assert not late & decided


@pytest.mark.promise("1")
def test_every_reader_ends_with_the_history_whatever_happens() -> None:
    for seed in range(FIRST, FIRST + EXAMPLES):
        try:
            run_virtually(live(seed))
        except BaseException as error:
            error.add_note(f"TIDEGATE_FIRST_EXAMPLE={seed} TIDEGATE_EXAMPLES=1")
            raise
