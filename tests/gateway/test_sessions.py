"""Sessions of one instance: what is stored of them, and which of several sockets holds one."""

from __future__ import annotations

import asyncio
from itertools import product

import msgspec
import pytest

from protocol.frames import Hello, ToolSpec
from stores.ports import Unavailable
from stores.records import SessionRecord
from tests.gateway.session_world import ALICE, BOB, BROWSER, TTL, SessionWorld, settled


async def test_a_hello_without_a_session_gets_a_new_one_that_is_stored() -> None:
    world = SessionWorld()
    session, resumed = await world.open(world.one, Hello())
    other, _ = await world.open(world.one, Hello())
    assert not resumed
    assert session.id != other.id
    assert session.id.startswith("sess_")
    assert world.store.records[session.id] == SessionRecord(
        id=session.id, owner=ALICE.owner, attempt=0, expires_at=1100, holder="one/1"
    )


async def test_a_session_outlives_its_socket_and_its_instance() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(tools=[BROWSER], cursors={"c": None, "d": "1:2"}))
    world.one.close(session)
    world.now += 50
    again, resumed = await world.open(world.two, Hello(session_id=session.id, attempt=1))
    assert resumed
    assert again.id == session.id
    assert msgspec.json.decode(again.record.tools, type=list[ToolSpec]) == [BROWSER]
    assert (list(again.record.contexts), again.record.holder, again.record.expires_at) == (["c", "d"], "two/1", 1150)


async def test_what_a_hello_says_replaces_what_an_earlier_one_said() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(tools=[BROWSER], cursors={"c": None}))
    again, _ = await world.open(world.one, Hello(session_id=session.id, tools=[], cursors={}))
    assert (again.record.tools, again.record.contexts) == (b"[]", ())


async def test_unknown_expired_and_foreign_sessions_look_the_same() -> None:
    world = SessionWorld()
    foreign, _ = await world.open(world.one, Hello(), principal=BOB)
    expired, _ = await world.open(world.one, Hello())
    for session in (foreign, expired):
        world.one.close(session)
    unknown, resumed = await world.open(world.one, Hello(session_id="sess_unknown"))
    assert not resumed
    stolen, resumed = await world.open(world.one, Hello(session_id=foreign.id))
    assert not resumed
    world.now += TTL
    late, resumed = await world.open(world.one, Hello(session_id=expired.id))
    assert not resumed
    assert len({foreign.id, expired.id, unknown.id, stolen.id, late.id, "sess_unknown"}) == 6
    assert world.store.records[foreign.id].owner == BOB.owner


async def test_a_stranger_closes_nobodys_socket() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(), "alice")
    await world.open(world.one, Hello(session_id=session.id, attempt=9), principal=BOB)
    assert world.given_up == []


async def test_a_later_attempt_takes_the_session_and_an_earlier_one_is_refused() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(attempt=1), "first")
    third, resumed = await world.open(world.one, Hello(session_id=session.id, attempt=3), "third")
    assert resumed
    assert world.given_up == ["first"]
    assert await world.ask(world.one, Hello(session_id=session.id, attempt=2)) is None
    assert world.given_up == ["first"]
    assert world.store.records[session.id] == third.record
    assert len(world.one) == 1


async def test_a_hello_without_an_attempt_counts_as_the_latest() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(attempt=4), "first")
    again, _ = await world.open(world.one, Hello(session_id=session.id))
    assert world.given_up == ["first"]
    assert again.record.attempt == 4


POINTS = [
    "cache.get session",
    "heartbeats.alive",
    "cache.take session",
    "store.take",
    "store.take-done",
    "cache.set session",
    "bus.publish",
    "cache.set tools",
]


@pytest.mark.parametrize(("point", "attempts"), list(product(POINTS, [(1, 2), (2, 1), (1, 1)])))
async def test_of_two_sockets_at_once_one_is_left(point: str, attempts: tuple[int, int]) -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.two, Hello(tools=[BROWSER]), "before")
        world.calls.stop_at = point
        hellos = [Hello(session_id=session.id, attempt=attempt) for attempt in attempts]
        first = asyncio.create_task(world.ask(world.one, hellos[0], "a"))
        await world.calls.stopped.wait()
        second = asyncio.create_task(world.ask(world.one, hellos[1], "b"))
        await settled()
        world.calls.go_on.set()
        opened = {"a": await first, "b": await second}
        await settled()
        left = [name for name, answer in opened.items() if answer is not None and name not in world.given_up]
        assert left in (["a"], ["b"])
        kept = opened[left[0]]
        assert kept is not None
        assert kept[0].record.attempt == max(attempts)
        assert world.holder(session) == kept[0].record.holder
        assert (len(world.one), len(world.two)) == (1, 0)
        assert "before" in world.given_up
        await kept[0].follow("c")
        assert left[0] not in world.given_up


async def test_the_socket_that_lost_the_session_does_not_close_it_for_the_other() -> None:
    world = SessionWorld()
    first, _ = await world.open(world.one, Hello())
    second, _ = await world.open(world.one, Hello(session_id=first.id, attempt=1))
    world.one.close(first)
    await world.one.flush()
    assert len(world.one) == 1
    assert world.holder(first) == "one/2"
    world.one.close(second)
    world.one.close(second)
    await world.one.flush()
    assert len(world.one) == 0
    assert world.holder(first) is None


async def test_what_a_session_follows_is_stored_at_once() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello())
    await asyncio.gather(session.follow("a"), session.follow("b"), session.follow("a"))
    assert set(world.store.records[session.id].contexts) == {"a", "b"}
    await session.unfollow("a")
    await session.unfollow("never followed")
    assert world.store.records[session.id].contexts == ("b",)


async def test_a_sweep_deletes_what_has_expired() -> None:
    world = SessionWorld()
    await world.open(world.one, Hello())
    world.now += TTL / 2
    kept, _ = await world.open(world.one, Hello())
    world.now += TTL / 2
    assert await world.one.sweep() == 1
    assert set(world.store.records) == {kept.id}


# ---- what fails


@pytest.mark.parametrize("point", [*POINTS, "store.get"])
async def test_a_hello_that_fails_somewhere_holds_nothing_and_may_be_said_again(point: str) -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.two, Hello(tools=[BROWSER], cursors={"c": None}))
        if point == "store.get":
            await world.cache.take(f"session:{session.id}")
        hello = Hello(session_id=session.id, attempt=2)
        world.calls.away.add(point)
        with pytest.raises(Unavailable):
            await world.ask(world.one, hello, "failed")
        assert len(world.one) == 0
        world.calls.away.clear()
        again, resumed = await world.open(world.one, hello, "again")
        await settled()
        assert resumed
        assert (list(again.record.contexts), world.holder(session)) == (["c"], again.record.holder)
        assert "again" not in world.given_up


@pytest.mark.parametrize("point", POINTS)
async def test_a_hello_whose_socket_goes_meanwhile_holds_nothing(point: str) -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.two, Hello(tools=[BROWSER]))
        world.calls.stop_at = point
        asking = asyncio.create_task(world.ask(world.one, Hello(session_id=session.id, attempt=5)))
        await world.calls.stopped.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await settled()
        assert len(world.one) == 0
        # Also a lower attempt is welcome: nobody stands in its way any more, but perhaps the one before.
        world.two.close(session)
        await settled()
        _, resumed = await world.open(world.one, Hello(session_id=session.id, attempt=1))
        assert resumed


async def test_a_session_that_was_left_while_the_store_is_away_is_an_obstacle_until_its_instance_ends() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=5))
        world.calls.away.add("store.leave")
        world.one.close(session)
        await settled()
        world.calls.away.clear()
        lower = Hello(session_id=session.id, attempt=1)
        assert await world.ask(world.two, lower) is None
        await world.heartbeats.stop("one")
        assert await world.ask(world.two, lower) is not None


async def test_a_bus_that_is_away_is_waited_for() -> None:
    world = SessionWorld()
    listen, tries = world.bus.listen, 0

    async def away(*args: object) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("away")
        return await listen(*args)  # type: ignore[arg-type]

    world.bus.listen = away  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(world.one.run())
    try:
        async with asyncio.timeout(5):
            while len(world.bus) < 2:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert len(world.bus) == 0
