"""Sessions of two instances that share a store, a cache, a bus and heartbeats."""

from __future__ import annotations

import asyncio

import pytest

import gateway.sessions
from protocol.frames import Hello, ToolSpec
from stores.records import ContextKey, SessionRecord
from tests.gateway.session_world import ALICE, BROWSER, SessionWorld, settled

# ---- who holds a session


async def test_a_later_attempt_elsewhere_closes_the_earlier_socket() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=1), "first")
        again, resumed = await world.open(world.two, Hello(session_id=session.id, attempt=2), "second")
        await settled()
        assert resumed
        assert world.given_up == ["first"]
        assert (len(world.one), len(world.two)) == (0, 1)
        # The socket that is closed for it takes nothing from the one that has it.
        world.one.close(session)
        await settled()
        assert world.holder(session) == again.record.holder


async def test_a_lower_attempt_is_refused_while_the_holder_lives() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=3), "third")
        assert await world.ask(world.two, Hello(session_id=session.id, attempt=2), "second") is None
        await settled()
        assert world.given_up == []
        assert (len(world.one), len(world.two)) == (1, 0)
        assert world.store.records[session.id] == session.record
        await session.follow("c")
        assert world.given_up == []


async def test_of_equal_attempts_the_last_wins() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=1), "first")
        again, _ = await world.open(world.two, Hello(session_id=session.id, attempt=1), "second")
        await settled()
        assert world.given_up == ["first"]
        back, _ = await world.open(world.one, Hello(session_id=session.id), "third")
        await settled()
        assert world.given_up == ["first", "second"]
        assert again.record.attempt == back.record.attempt == 1


@pytest.mark.parametrize("end", ["its instance is dead", "its socket was left"])
async def test_a_holder_that_is_gone_is_no_obstacle(end: str) -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=7, cursors={"c": None}))
        if end == "its instance is dead":
            await world.heartbeats.stop("one")
        else:
            world.one.close(session)
            await settled()
        again, resumed = await world.open(world.two, Hello(session_id=session.id, attempt=1))
        assert resumed
        assert (again.record.attempt, list(again.record.contexts)) == (1, ["c"])


async def test_a_socket_of_this_instance_that_is_over_is_no_obstacle_though_the_store_does_not_know() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(attempt=7))
    world.one.close(session)
    assert world.holder(session) == "one/1"
    assert await world.ask(world.one, Hello(session_id=session.id, attempt=1)) is not None


async def test_while_nobody_can_be_judged_only_later_attempts_are_taken() -> None:
    world = SessionWorld()
    world.heartbeats.unsure = True
    session, _ = await world.open(world.one, Hello(attempt=2))
    assert await world.ask(world.two, Hello(session_id=session.id, attempt=1)) is None
    assert await world.ask(world.two, Hello(session_id=session.id, attempt=3)) is not None


async def test_a_call_that_comes_late_closes_nobody_who_took_the_session_back() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=1), "first")
        world.bus.holding = True
        await world.open(world.two, Hello(session_id=session.id, attempt=2), "second")
        third, _ = await world.open(world.one, Hello(session_id=session.id, attempt=3), "third")
        await world.bus.deliver()  # what the second said comes last
        await settled()
        assert sorted(world.given_up) == ["first", "second"]
        assert (len(world.one), len(world.two)) == (1, 0)
        assert world.holder(session) == third.record.holder


async def test_a_call_that_is_lost_is_made_up_for_by_the_next_change() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=1), "first")
        world.bus.losing = True
        again, _ = await world.open(world.two, Hello(session_id=session.id, attempt=2), "second")
        await settled()
        assert world.given_up == []
        await session.follow("c")
        assert world.given_up == ["first"]
        assert world.store.records[session.id] == again.record


async def test_a_call_that_can_not_be_checked_now_is_checked_later() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=1), "first")
        world.calls.away.add("store.get")
        await world.open(world.two, Hello(session_id=session.id, attempt=1), "second")
        await settled()
        assert world.given_up == []
        world.calls.away.clear()
        other, _ = await world.open(world.one, Hello())
        world.one.close(other)
        await settled()
        assert world.given_up == ["first"]


async def test_a_call_that_can_not_be_checked_now_is_checked_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.sessions, "_AGAIN_SECONDS", 0.001)
    world = SessionWorld()
    async with world.running():
        given_up = asyncio.Event()
        opened = await world.one.open(ALICE, Hello(attempt=1), given_up.set)
        assert opened is not None
        world.calls.away.add("store.get")
        await world.open(world.two, Hello(session_id=opened[0].id, attempt=1), "second")
        await settled()
        assert not given_up.is_set()
        world.calls.away.clear()
        async with asyncio.timeout(5):
            await given_up.wait()


async def test_a_call_that_says_nothing_is_nothing() -> None:
    world = SessionWorld()
    async with world.running():
        await world.open(world.one, Hello())
        for payload in (b"", b"\xff", b'["sess_unknown","one/1",1]'):
            await world.bus.publish("sessions-taken", payload)
        await settled()
        assert world.given_up == []
        assert world.calls.made["store.get"] == 0


# ---- where it is found


async def test_whoever_resumes_reads_the_store_nowhere() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(tools=[BROWSER], cursors={"c": None}))
        await session.follow("d")
        for number, sessions in enumerate([world.two, world.one, world.two], start=1):
            session, resumed = await world.open(sessions, Hello(session_id=session.id, attempt=number))
            assert resumed
            assert set(session.record.contexts) == {"c", "d"}
            sessions.close(session)
            await settled()
        assert world.calls.made["store.get"] == 0
        assert world.calls.made["store.of"] == 0


@pytest.mark.parametrize("lost", ["lost", "of another version"])
async def test_what_the_cache_does_not_tell_the_store_does(lost: str) -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(cursors={"c": None}))
    await world.cache.take(f"session:{session.id}")
    if lost != "lost":
        await world.cache.set(f"session:{session.id}", b'{"id":1}', 60)
    again, resumed = await world.open(world.two, Hello(session_id=session.id, attempt=1))
    assert resumed
    assert list(again.record.contexts) == ["c"]
    assert world.calls.made["store.get"] == 1


@pytest.mark.parametrize("point", ["store.put", "store.put-done", "cache.set session"])
async def test_a_change_that_is_cut_off_leaves_nothing_old(point: str) -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello())
    world.calls.stop_at = point
    following = asyncio.create_task(session.follow("c"))
    await world.calls.stopped.wait()
    following.cancel()  # as the process's end would
    await asyncio.wait([following])
    again, _ = await world.open(world.two, Hello(session_id=session.id, attempt=1))
    assert list(again.record.contexts) == ([] if point == "store.put" else ["c"])


@pytest.mark.parametrize("point", ["store.take", "store.take-done", "cache.set session"])
async def test_a_taking_that_is_cut_off_leaves_nothing_old(point: str) -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(attempt=1, cursors={"c": None}))
    world.calls.stop_at = point
    taking = asyncio.create_task(world.ask(world.two, Hello(session_id=session.id, attempt=2, cursors={"d": None})))
    await world.calls.stopped.wait()
    taking.cancel()
    await asyncio.wait([taking])
    again, _ = await world.open(world.one, Hello(session_id=session.id, attempt=3))
    assert list(again.record.contexts) == (["c"] if point == "store.take" else ["d"])


async def test_what_a_slow_holder_keeps_last_is_not_found_once_it_has_heard_of_the_other() -> None:
    world = SessionWorld()
    async with world.running():
        session, _ = await world.open(world.one, Hello(attempt=1), "first")
        world.calls.stop_at = "cache.set session"
        following = asyncio.create_task(session.follow("c"))
        await world.calls.stopped.wait()
        again, _ = await world.open(world.two, Hello(session_id=session.id, attempt=2, tools=[BROWSER]), "second")
        await settled()
        world.calls.go_on.set()
        await following
        await settled()
        assert world.given_up == ["first"]
        await again.follow("d")
        world.two.close(again)
        await settled()
        later, _ = await world.open(world.one, Hello(session_id=session.id, attempt=3))
        assert later.record.tools == again.record.tools
        assert "d" in later.record.contexts


# ---- deletion


async def test_a_context_that_was_deleted_is_followed_no_more() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(cursors={"c": None, "d": None}))
    await world.one.forget(ContextKey(ALICE.owner, "c"))
    assert world.store.records[session.id].contexts == ("d",)
    await world.one.forget(ContextKey("t/bob", "d"))
    assert world.store.records[session.id].contexts == ("d",)


async def test_what_others_hold_of_an_owner_who_was_erased_starts_over() -> None:
    world = SessionWorld()
    async with world.running():
        here, _ = await world.open(world.one, Hello(cursors={"c": None}), "here")
        there, _ = await world.open(world.two, Hello(cursors={"c": None}), "there")
        gone, _ = await world.open(world.two, Hello(cursors={"c": None}))
        world.two.close(gone)
        await settled()
        world.store.records.clear()
        await world.one.forget_all(ALICE.owner, [here.id, there.id, gone.id])
        await settled()
        assert world.given_up == []
        assert world.store.records.keys() == {here.id, there.id}
        assert all(record.contexts == () for record in world.store.records.values())
        again, resumed = await world.open(world.one, Hello(session_id=gone.id))
        assert not resumed
        assert again.id != gone.id
        await there.follow("new")
        assert world.store.records[there.id].contexts == ("new",)


async def test_what_is_erased_while_the_store_is_away_starts_over_later() -> None:
    world = SessionWorld()
    async with world.running():
        there, _ = await world.open(world.two, Hello(cursors={"c": None}), "there")
        world.store.records.clear()
        world.calls.away.add("store.take")
        await world.one.forget_all(ALICE.owner, [there.id])
        await settled()
        assert world.store.records == {}
        world.calls.away.clear()
        other, _ = await world.open(world.two, Hello())
        world.two.close(other)
        await settled()
        assert world.store.records[there.id].contexts == ()


async def test_a_socket_that_lost_its_session_unheard_does_not_start_it_over() -> None:
    world = SessionWorld()
    session, _ = await world.open(world.one, Hello(attempt=1), "first")
    stored = SessionRecord(
        id=session.id, owner=ALICE.owner, attempt=2, expires_at=5000, contexts=("c",), holder="two/9"
    )
    world.store.records[session.id] = stored
    await world.one.forget_all(ALICE.owner, [])
    assert world.given_up == ["first"]
    assert world.store.records[session.id] == stored


async def test_what_is_large_of_a_session_is_in_the_store_alone() -> None:
    world = SessionWorld()
    async with world.running():
        large = ToolSpec(name="browser", description="b" * 70_000, parameters={"type": "object"})
        session, _ = await world.open(world.one, Hello(attempt=1, tools=[large]))
        assert world.calls.made["cache.set session"] == 0
        again, resumed = await world.open(world.two, Hello(session_id=session.id, attempt=2))
        assert resumed
        assert again.record.tools == session.record.tools
