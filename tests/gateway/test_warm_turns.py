"""Whoever goes on with a conversation that is in use makes the store write, and read nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.recovery import Recovery
from protocol.frames import Hello, SendMessage, Subscribed, ToolSpec
from protocol.ids import new_id
from stores.records import EventRow
from tests.gateway.parts_world import KEY, Device, Shared, shared

BROWSER = ToolSpec(name="browser", description="a browser", parameters={"type": "object"})


@pytest.fixture(autouse=True)
def nobody_looks_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that looks around just then may take a turn that was stored on another: here each runs its own."""

    async def look(recovery: Recovery) -> None: ...

    monkeypatch.setattr(Recovery, "look", look)


async def test_a_turn_on_a_warm_context_reads_nothing_from_the_store(tmp_path: Path) -> None:
    async with shared(tmp_path, threads=False) as world, world.instance() as instance:
        device = await instance.connect(Hello(cursors={}, tools=[BROWSER]))
        await device.say("hello")
        await instance.idle()
        for text in ("and", "tool", "so", "tool"):
            instance.forget_reads()
            await device.say(text)
            await instance.idle()
            assert instance.reads == {}, text
        assert world.model.given == world.model.cold
        assert len(world.model.given) == 7


async def test_a_resume_reads_nothing_from_the_store(tmp_path: Path) -> None:
    async with shared(tmp_path, threads=False) as world, world.instance() as instance:
        device = await instance.connect(Hello(cursors={}, tools=[BROWSER]))
        await device.say("hello")
        await instance.idle()
        for attempt in range(1, 4):
            await device.leave()
            instance.forget_reads()
            hello = Hello(session_id=device.session_id, attempt=attempt, cursors={KEY.id: device.cursor})
            device = await instance.connect(hello)
            await device.until(Subscribed)
            assert device.resumed
            assert instance.reads == {}
            await device.say("and")
            await instance.idle()
            # What a session declares is looked up once after each of its hellos.
            assert instance.reads.keys() <= {"sessions_of"}


async def test_a_resume_on_another_instance_reads_nothing_from_the_store(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        device = await one.connect(Hello(cursors={}))
        await device.say("hello")
        await one.idle()
        # The first socket is still there, as far as its instance knows.
        hello = Hello(session_id=device.session_id, attempt=1, cursors={KEY.id: device.cursor})
        one.forget_reads()
        again = await two.connect(hello)
        await again.until(Subscribed)
        assert again.resumed
        assert (one.reads, two.reads) == ({}, {})


async def test_instances_that_take_turns_read_nothing_once_both_know_the_context(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        devices = [(one, await one.connect(Hello(cursors={}))), (two, await two.connect(Hello(cursors={})))]
        for number in range(10):
            instance, device = devices[number % 2]
            instance.forget_reads()
            await device.say("tool" if number % 3 == 0 else f"say {number}")
            await instance.idle()
            if number >= 2:
                assert instance.reads == {}, number
            elif number == 1:
                assert "thread" not in instance.reads
        assert world.model.given == world.model.cold


async def _say_aside(world: Shared, device: Device) -> None:
    await device.send(SendMessage(id=new_id("msg_"), content="aside", context_id=KEY.id, respond=False))
    async with asyncio.timeout(5):
        while not any(row.type == "message" and b"aside" in row.body for row in await _rows(world)):
            await asyncio.sleep(0.001)


async def _rows(world: Shared) -> list[EventRow]:
    found = await world.store.thread(KEY, None, 100)
    return list(found.rows) if found is not None else []


@pytest.mark.parametrize("lost", ["said aside", "cache lost"])
async def test_instances_that_take_turns_read_nothing_again_after_something_came_between(
    tmp_path: Path, lost: str
) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        devices = [(one, await one.connect(Hello(cursors={}))), (two, await two.connect(Hello(cursors={})))]
        for number in range(10):
            instance, device = devices[number % 2]
            if number == 5 and lost == "said aside":
                await _say_aside(world, device)
            elif number == 5 and world.threads is not None:
                await world.threads.forget(KEY)
            instance.forget_reads()
            await device.say(f"say {number}")
            await instance.idle()
            if number == 5:
                assert instance.reads == {"thread": 1}
            elif number >= 2:
                assert instance.reads == {}, number
        assert world.model.given == world.model.cold


async def test_a_title_costs_one_read_and_no_more(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance(titles=True) as one, world.instance(titles=True) as two:
        devices = [(one, await one.connect(Hello(cursors={}))), (two, await two.connect(Hello(cursors={})))]
        for number in range(8):
            instance, device = devices[number % 2]
            instance.forget_reads()
            await device.say(f"say {number}")
            await instance.idle()
            if number >= 3:
                assert instance.reads == {}, number
