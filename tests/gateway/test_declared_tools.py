"""What owners' clients declare is read once, and again when any instance says that it changed."""

from __future__ import annotations

import asyncio

import pytest

import gateway.declared_tools
from gateway.consent import Consent
from gateway.core.approval import Approvals
from gateway.core.policy import Policy
from gateway.declared_tools import DeclaredTools, as_offered
from gateway.routing import Routes
from gateway.tools.catalog import Catalog
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from protocol.codec import encode
from protocol.frames import Hello, Ping, ToolSpec
from stores.memory import MemoryCache
from stores.ports import Unavailable
from stores.records import SessionRecord
from tests.gateway.session_world import ALICE, BROWSER, SessionWorld, settled
from tests.reference_store import ReferenceStore

OWNER = ALICE.owner
CAMERA = ToolSpec(name="camera", description="a camera", parameters={"type": "object"})


def declare(world: SessionWorld, id: str, *tools: ToolSpec, owner: str = OWNER, expires_at: float = 5000) -> None:
    world.store.records.pop(id, None)
    world.store.records[id] = SessionRecord(
        id=id, owner=owner, attempt=0, expires_at=expires_at, tools=encode(list(tools))
    )


def instance(world: SessionWorld) -> DeclaredTools:
    return DeclaredTools(world.store, world.cache, lambda: world.now)


async def ids(declared: DeclaredTools, owner: str = OWNER) -> list[str]:
    return [session.id for session in await declared.of(owner)]


async def test_it_is_read_once_while_nothing_changes() -> None:
    world = SessionWorld()
    declare(world, "a", BROWSER)
    declare(world, "b", CAMERA)
    declare(world, "nothing")
    declare(world, "theirs", BROWSER, owner="t/bob")
    one = instance(world)
    for _ in range(5):
        assert await ids(one) == ["b", "a"]
    assert world.calls.made["store.of"] == 1
    assert await ids(one, "t/nobody") == []
    assert await ids(one, "t/nobody") == []
    assert world.calls.made["store.of"] == 2


async def test_a_change_on_another_instance_is_seen_at_the_next_look() -> None:
    world = SessionWorld()
    one, two = instance(world), instance(world)
    assert await ids(one) == []
    declare(world, "a", BROWSER)
    assert await ids(one) == []
    await two.changed(OWNER)
    assert await ids(one) == ["a"]
    assert await ids(two) == ["a"]


async def test_what_changes_while_the_store_answers_is_read_again() -> None:
    world = SessionWorld()
    one, two = instance(world), instance(world)
    world.calls.stop_at = "store.of"
    looking = asyncio.create_task(ids(one))
    await world.calls.stopped.wait()
    declare(world, "a", BROWSER)
    await two.changed(OWNER)
    world.calls.go_on.set()
    assert await looking == []  # as of when it was asked
    assert await ids(one) == ["a"]


async def test_what_has_expired_is_left_out_though_nobody_says_so() -> None:
    world = SessionWorld()
    one = instance(world)
    declare(world, "short", BROWSER, expires_at=1100)
    declare(world, "long", CAMERA, expires_at=1300)
    assert await ids(one) == ["long", "short"]
    world.now = 1100.0
    assert await ids(one) == ["long"]
    assert world.calls.made["store.of"] == 1


async def test_a_change_that_was_never_told_is_seen_after_five_minutes() -> None:
    world = SessionWorld()
    one = instance(world)
    assert await ids(one) == []
    declare(world, "a", BROWSER)  # and whoever did died before it could tell
    world.now += 299
    assert await ids(one) == []
    world.now += 1
    assert await ids(one) == ["a"]


async def test_a_version_that_is_lost_costs_one_look() -> None:
    world = SessionWorld()
    one = instance(world)
    await ids(one)
    await world.cache.take(f"tools:{OWNER}")
    await ids(one)
    await ids(one)
    assert world.calls.made["store.of"] == 2


async def test_two_that_find_no_version_agree_on_one() -> None:
    world = SessionWorld()
    one, two = instance(world), instance(world)
    await asyncio.gather(ids(one), ids(two))
    await ids(one)
    await ids(two)
    assert world.calls.made["store.of"] == 2


async def test_a_cache_that_keeps_nothing_costs_looks_and_nothing_else() -> None:
    world = SessionWorld()
    one = DeclaredTools(world.store, MemoryCache(max_items=0), lambda: world.now)
    declare(world, "a", BROWSER)
    async with asyncio.timeout(5):
        assert await ids(one) == ["a"]
        assert await ids(one) == ["a"]


async def test_what_was_used_last_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.declared_tools, "_REMEMBERED", 2)
    world = SessionWorld()
    one = instance(world)
    for owner in ("x", "y", "x", "z"):
        await ids(one, owner)
    assert world.calls.made["store.of"] == 3
    await ids(one, "x")
    assert world.calls.made["store.of"] == 3
    await ids(one, "y")
    assert world.calls.made["store.of"] == 4


async def test_a_store_that_is_away_is_told_and_nothing_wrong_is_remembered() -> None:
    world = SessionWorld()
    one = instance(world)
    declare(world, "a", BROWSER)
    world.calls.away.add("store.of")
    with pytest.raises(Unavailable):
        await one.of(OWNER)
    world.calls.away.clear()
    assert await ids(one) == ["a"]


async def test_while_the_cache_is_away_the_store_is_asked_each_time() -> None:
    world = SessionWorld()
    one = instance(world)
    world.calls.away.add("cache.get tools")
    assert await ids(one) == []
    declare(world, "a", BROWSER)
    assert await ids(one) == ["a"]


async def test_a_hello_tells_the_others_what_it_declares() -> None:
    world = SessionWorld()
    async with world.running():
        watching = instance(world)
        assert await ids(watching) == []
        session, _ = await world.open(world.one, Hello(tools=[BROWSER]))
        assert await ids(watching) == [session.id]
        session, _ = await world.open(world.two, Hello(session_id=session.id, attempt=1, tools=[CAMERA]))
        assert [found.tools for found in await watching.of(OWNER)] == [session.record.tools]
        # One that goes on lives longer, which those who remember it must learn too.
        world.now += 60
        await world.open(world.one, Hello(session_id=session.id, attempt=2))
        world.now += 60
        assert await ids(watching) == [session.id]
        await world.open(world.one, Hello(session_id=session.id, attempt=3, tools=[]))
        assert await ids(watching) == []
        await settled()


async def test_a_hello_that_declares_nothing_costs_nobody_a_look() -> None:
    world = SessionWorld()
    watching = instance(world)
    await ids(watching)
    session, _ = await world.open(world.one, Hello())
    await session.follow("c")
    await world.open(world.one, Hello(session_id=session.id, attempt=1))
    await ids(watching)
    assert world.calls.made["store.of"] == 1


async def test_who_asks_is_told_that_it_can_not_be_known_now() -> None:
    world = SessionWorld()
    tools = DeclaredTools(world.store, world.cache, lambda: world.now)
    consent = Consent(Approvals({}, {}), ReferenceStore())
    routes = Routes(Catalog(ToolRegistry([])), ToolRunner(), Policy({}), tools, consent)
    world.calls.away.add("store.of")
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await routes.known(ALICE, None, "browser")
        with pytest.raises(Unavailable):
            await routes.client_tools(ALICE, None)


async def test_models_are_offered_so_many_of_an_owners_and_the_senders_first() -> None:
    world = SessionWorld()
    for session in range(4):
        specs = [ToolSpec(f"s{session}_{n}", "", {"type": "object"}, "always") for n in range(100)]
        declare(world, f"session{session}", *specs)
    consent = Consent(Approvals({}, {}), ReferenceStore())
    routes = Routes(Catalog(ToolRegistry([])), ToolRunner(), Policy({}), instance(world), consent)
    tools = await routes.client_tools(ALICE, "session1")
    assert [sum(name.startswith(f"s{session}_") for name in tools) for session in range(4)] == [0, 100, 56, 100]
    assert next(iter(tools)) == "s1_0"
    known = await routes.known(ALICE, "session1", "s1_0")
    assert known is not None
    assert (known.runs_on, known.session_id, known.approval) == ("client", "session1", "always")


def test_what_is_declared_is_kept_as_models_may_be_shown_it() -> None:
    assert as_offered(Hello()) == Hello()
    shown = as_offered(Hello(tools=[ToolSpec("look", "Look\u200b here", {"oneOf": [{}], "properties": {}}, "first")]))
    assert shown == Hello(tools=[ToolSpec("look", "Look here", {"type": "object", "properties": {}}, "first")])
    assert as_offered(Ping(id="p")) == Ping(id="p")
