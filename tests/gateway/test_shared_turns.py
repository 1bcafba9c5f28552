"""Turns where several instances run: who is told of what, and what becomes of them when one goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

import gateway.recovery
import gateway.run
import gateway.turns
from gateway.recovery import Recovery
from gateway.stored_events import new_event
from gateway.turns import Turns
from protocol.frames import Ack, Cancel, Hello, Message, SendMessage, ToolCall, ToolResponse, TurnEnd
from stores.ports import StoreError, Unavailable
from stores.records import LogBatch, NewTurn, Turn, TurnState
from tests.gateway.parts_world import KEY, Device, Instance, Shared, shared

MOST = 20.0


def turns_of(instance: Instance) -> Turns:
    return instance.parts._turns  # pyright: ignore[reportPrivateUsage]


def recovery_of(instance: Instance) -> Recovery:
    return instance.parts._recovery  # pyright: ignore[reportPrivateUsage]


async def waiting_turn(world: Shared, instance: Instance) -> Device:
    """A device whose turn "m" waits for its model."""
    device = await instance.connect(Hello(cursors={}))
    await device.send(SendMessage(id="m", content="wait", context_id=KEY.id))
    await world.model.asked.wait()
    assert len(turns_of(instance)) == 1
    return device


async def runner_of(world: Shared) -> str | None:
    rows = await world.store.load_turn(KEY, "m")
    assert rows is not None
    return rows.turn.runner


async def test_a_call_over_the_bus_wakes_the_run_of_another_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.run, "_POLL", 3600.0)  # nobody looks by himself
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        device = await waiting_turn(world, one)
        other = await two.connect(Hello(cursors={}))
        await other.send(Cancel(id="stop", context_id=KEY.id))
        await other.until(Ack)
        async with asyncio.timeout(MOST):
            assert (await device.until(TurnEnd)).status == "cancelled"


async def test_a_call_that_is_lost_costs_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.run, "_POLL", 0.05)
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        device = await waiting_turn(world, one)
        other = await two.connect(Hello(cursors={}))
        tried = asyncio.Event()

        async def publish(channel: str, payload: bytes) -> None:
            tried.set()
            raise Unavailable("away")

        monkeypatch.setattr(world.bus, "publish", publish)
        await other.send(Cancel(id="stop", context_id=KEY.id))
        await other.until(Ack)
        async with asyncio.timeout(MOST):
            assert (await device.until(TurnEnd)).status == "cancelled"
            await tried.wait()


async def test_a_call_that_means_nothing_here_wakes_nothing(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one:
        device = await waiting_turn(world, one)
        for payload in (b"", b"[]", b'["t/ann","chat"]', b'["t/ann","chat","another"]'):
            await world.bus.publish(f"turns/{turns_of(one).instance}", payload)
        await asyncio.sleep(0)
        world.model.go_on.set()
        assert (await device.until(TurnEnd)).status == "complete"


async def test_a_drain_gives_up_what_does_not_end_and_another_takes_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.recovery, "_EVERY", 3600.0)
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        await waiting_turn(world, one)
        follower = await two.connect(Hello(cursors={KEY.id: None}))
        assert await runner_of(world) == turns_of(one).instance
        await turns_of(one).drain(0)
        assert await runner_of(world) is None
        assert len(turns_of(one)) == 0
        # Nobody had to judge anybody dead: its heart still beats.
        assert turns_of(one).instance in (await world.heartbeats.alive() or ())
        await recovery_of(two).look()
        async with asyncio.timeout(MOST):
            while await runner_of(world) != turns_of(two).instance:
                await asyncio.sleep(0.001)
        world.model.go_on.set()
        async with asyncio.timeout(MOST):
            assert (await follower.until(TurnEnd)).status == "complete"
        await two.idle()


async def test_a_drain_waits_for_what_ends(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one:
        device = await waiting_turn(world, one)
        draining = asyncio.create_task(turns_of(one).drain(MOST))
        await asyncio.sleep(0)
        world.model.go_on.set()
        async with asyncio.timeout(MOST):
            await draining
        assert (await device.until(TurnEnd)).status == "complete"
        assert await runner_of(world) is None


async def test_what_can_not_be_given_up_holds_no_drain_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as world, world.instance() as one:
        await waiting_turn(world, one)

        async def release(*args: object) -> None:
            raise Unavailable("away")

        monkeypatch.setattr(world.store, "release", release)
        async with asyncio.timeout(MOST):
            await turns_of(one).drain(0)
        assert await runner_of(world) == turns_of(one).instance
        monkeypatch.undo()


async def test_a_claim_that_is_under_way_while_it_drains_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as world, world.instance() as one:
        device = await one.connect(Hello(cursors={}))
        claim, asked, go_on = world.store.claim, asyncio.Event(), asyncio.Event()

        async def slowly(*args: object) -> object:
            answer = await claim(*args)  # type: ignore[arg-type]  # pyright: ignore
            asked.set()
            await go_on.wait()
            return answer

        monkeypatch.setattr(world.store, "claim", slowly)
        await device.send(SendMessage(id="m", content="wait", context_id=KEY.id))
        await asked.wait()
        await turns_of(one).drain(0)
        go_on.set()
        async with asyncio.timeout(MOST):
            while await runner_of(world) is not None:
                await asyncio.sleep(0.001)
        assert not world.model.asked.is_set()


async def test_one_that_retires_beats_and_looks_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.recovery, "HEARTBEAT_TTL", 0.05)
    monkeypatch.setattr(gateway.recovery, "_EVERY", 0.01)
    async with shared(tmp_path) as world, world.instance() as one:
        name, recovery = turns_of(one).instance, recovery_of(one)
        beating, looking = asyncio.create_task(recovery.beat()), asyncio.create_task(recovery.run())
        await asyncio.sleep(0)
        assert name in (await world.heartbeats.alive() or ())
        await recovery.retire()
        assert name not in (await world.heartbeats.alive() or ())
        async with asyncio.timeout(MOST):
            await asyncio.gather(beating, looking)
        assert name not in (await world.heartbeats.alive() or ())
        await recovery.beat()
        await recovery.run()
        assert name not in (await world.heartbeats.alive() or ())


async def test_one_that_can_not_say_that_it_retires_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as world, world.instance() as one:

        async def stop(instance: str) -> None:
            raise Unavailable("away")

        monkeypatch.setattr(world.heartbeats, "stop", stop)
        await recovery_of(one).retire()
        async with asyncio.timeout(MOST):
            await recovery_of(one).beat()  # there is nothing more to say
        monkeypatch.undo()


async def submitted(world: Shared, id: str, request: bytes) -> None:
    """A turn that was stored, and that nobody has begun."""
    said = Message(context_id=KEY.id, turn_id=id, id=id, content="hi", role="user", timestamp="now", status="complete")
    await world.store.submit(KEY, new_event(said), NewTurn(id=id, kind="message", request=request))


async def state_of(world: Shared, id: str) -> Turn:
    rows = await world.store.load_turn(KEY, id)
    assert rows is not None
    return rows.turn


async def test_a_turn_that_has_just_come_is_left_to_the_instance_where_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.recovery, "_EVERY", 3600.0)
    async with shared(tmp_path) as world, world.instance() as one:
        await asyncio.sleep(0.01)  # its first look around
        device = await one.connect(Hello(cursors={}))
        await device.send(SendMessage(id="m", content="hello", context_id=KEY.id))
        await device.until(TurnEnd)
        request = (await state_of(world, "m")).request
        await submitted(world, "n", request)
        await recovery_of(one).look()
        await asyncio.sleep(0.01)
        assert (await state_of(world, "n")).state is TurnState.QUEUED
        monkeypatch.setattr(gateway.recovery, "_PATIENCE", 0.0)
        await recovery_of(one).look()
        async with asyncio.timeout(MOST):
            assert (await device.until(TurnEnd)).turn_id == "n"


async def test_a_turn_that_can_not_be_read_is_left_to_others_and_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.recovery, "_EVERY", 3600.0)
    monkeypatch.setattr(gateway.recovery, "_PATIENCE", 0.0)
    async with shared(tmp_path) as world, world.instance() as one:
        await submitted(world, "m", b'{"of":"another version"}')
        for fence in range(1, 5):
            await recovery_of(one).look()
            async with asyncio.timeout(MOST):
                while (turn := await state_of(world, "m")).fence != fence or turn.runner is not None:
                    await asyncio.sleep(0.001)
        await recovery_of(one).look()
        async with asyncio.timeout(MOST):
            while (await state_of(world, "m")).state is not TurnState.DONE:
                await asyncio.sleep(0.001)
        history = await world.store.history(KEY, None, 10)
        ends = [row for row in (*history.rows, *history.unsequenced) if row.type == "turn_end"]
        assert b'"status":"failed"' in ends[0].body
        # The instance goes on.
        device = await one.connect(Hello(cursors={}))
        await device.send(SendMessage(id="n", content="hello", context_id=KEY.id))
        async with asyncio.timeout(MOST):
            await device.until(TurnEnd)


async def test_a_turn_that_failed_where_there_is_no_room_is_anybodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as world, world.instance() as one:
        turns = turns_of(one)
        device = await waiting_turn(world, one)
        (run,) = turns._runs.values()  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(turns, "_limit", 0)

        def fail() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(run, "_inputs", fail)
        run.poke()
        async with asyncio.timeout(MOST):
            while await runner_of(world) is not None:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(turns, "_limit", 10)
            world.model.go_on.set()
            assert (await device.until(TurnEnd)).status == "complete"


async def test_a_turn_that_is_given_up_leaves_no_call_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.turns, "_MAX_ATTEMPTS", 1)
    call = ToolCall(
        context_id=KEY.id,
        turn_id="m",
        id="k",
        tool="locate",
        parameters={},
        timestamp="2026-01-01T00:00:00.000Z",
        runs_on="client",
        session_id="sess_1",
    )
    async with shared(tmp_path) as world, world.instance() as one:
        device = await waiting_turn(world, one)
        (run,) = turns_of(one)._runs.values()  # pyright: ignore[reportPrivateUsage]

        def fail() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(run, "_inputs", fail)
        await world.store.write(KEY, "m", run.turn.fence, [new_event(call)])
        run.poke()
        async with asyncio.timeout(MOST):
            answer = await device.until(ToolResponse)
            assert (answer.tool_call_id, answer.status) == ("k", "interrupted")
            assert (await device.until(TurnEnd)).status == "failed"
        rows = await world.store.load_turn(KEY, "m")
        assert rows is not None
        assert rows.calls["k"].answered


async def test_the_end_of_a_turn_that_is_given_up_is_said_though_the_log_refuses_it_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.turns, "_MAX_ATTEMPTS", 1)
    async with shared(tmp_path) as world, world.instance() as one:
        device = await waiting_turn(world, one)
        (run,) = turns_of(one)._runs.values()  # pyright: ignore[reportPrivateUsage]
        log = one.parts._event_log  # pyright: ignore[reportPrivateUsage]
        append, refused = log.append, asyncio.Event()

        async def full(batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
            if refused.is_set():
                return await append(batches)
            refused.set()
            return [Unavailable("full")] * len(batches)

        def fail() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(run, "_inputs", fail)
        monkeypatch.setattr(log, "append", full)
        run.poke()
        async with asyncio.timeout(MOST):
            assert (await device.until(TurnEnd)).status == "failed"
            assert refused.is_set()
