from __future__ import annotations

import asyncio

import msgspec

from gateway.auth.principal import Principal
from gateway.sessions import Session, Sessions
from protocol.frames import Hello, ToolSpec
from stores.records import SessionRecord

ALICE, BOB = Principal(tenant="t", subject="alice"), Principal(tenant="t", subject="bob")
TTL = 100.0
BROWSER = ToolSpec(name="browser", description="a browser", parameters={"type": "object"})


class Store:
    """A SessionStore of one dictionary, which yields as I/O would."""

    def __init__(self) -> None:
        self.records: dict[str, SessionRecord] = {}

    async def put_session(self, session: SessionRecord) -> None:
        await asyncio.sleep(0)
        self.records[session.id] = session

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        await asyncio.sleep(0)
        record = self.records.get(id)
        return record if record is not None and record.expires_at > now else None

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        return [record for record in self.records.values() if record.owner == owner]

    async def delete_expired_sessions(self, now: float) -> int:
        expired = [id for id, record in self.records.items() if record.expires_at <= now]
        for id in expired:
            del self.records[id]
        return len(expired)


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.store = Store()
        self.sessions = self.instance("one")
        self.given_up: list[str] = []

    def instance(self, name: str) -> Sessions:
        return Sessions(self.store, name, TTL, lambda: self.now)

    async def open(
        self, hello: Hello, *, socket: str = "", principal: Principal = ALICE, at: Sessions | None = None
    ) -> tuple[Session, bool]:
        opened = await (self.sessions if at is None else at).open(
            principal, hello, lambda: self.given_up.append(socket)
        )
        assert opened is not None
        return opened


async def test_a_hello_without_a_session_gets_a_new_one_that_is_stored() -> None:
    world = World()
    session, resumed = await world.open(Hello())
    other, _ = await world.open(Hello())
    assert not resumed
    assert session.id != other.id
    assert session.id.startswith("sess_")
    assert world.store.records[session.id] == SessionRecord(
        id=session.id, owner=ALICE.owner, attempt=0, expires_at=1100, holder="one"
    )


async def test_a_session_outlives_its_socket_and_its_instance() -> None:
    world = World()
    session, _ = await world.open(Hello(tools=[BROWSER], cursors={"c": None, "d": "1:2"}))
    world.sessions.close(session)
    world.now += 50
    again, resumed = await world.open(Hello(session_id=session.id, attempt=1), at=world.instance("two"))
    assert resumed
    assert again.id == session.id
    assert msgspec.json.decode(again.record.tools, type=list[ToolSpec]) == [BROWSER]
    assert (again.record.contexts, again.record.holder, again.record.expires_at) == (("c", "d"), "two", 1150)


async def test_what_a_hello_says_replaces_what_an_earlier_one_said() -> None:
    world = World()
    session, _ = await world.open(Hello(tools=[BROWSER], cursors={"c": None}))
    again, _ = await world.open(Hello(session_id=session.id, tools=[], cursors={}))
    assert (again.record.tools, again.record.contexts) == (b"[]", ())


async def test_unknown_expired_and_foreign_sessions_look_the_same() -> None:
    world = World()
    foreign, _ = await world.open(Hello(), principal=BOB)
    expired, _ = await world.open(Hello())
    for session in (foreign, expired):
        world.sessions.close(session)
    unknown, resumed = await world.open(Hello(session_id="sess_unknown"))
    assert not resumed
    stolen, resumed = await world.open(Hello(session_id=foreign.id))
    assert not resumed
    world.now += TTL
    late, resumed = await world.open(Hello(session_id=expired.id))
    assert not resumed
    assert len({foreign.id, expired.id, unknown.id, stolen.id, late.id, "sess_unknown"}) == 6
    assert world.store.records[foreign.id].owner == BOB.owner


async def test_a_stranger_closes_nobodys_socket() -> None:
    world = World()
    session, _ = await world.open(Hello(), socket="alice")
    await world.open(Hello(session_id=session.id, attempt=9), principal=BOB)
    assert world.given_up == []


async def test_a_later_attempt_takes_the_session_and_an_earlier_one_is_refused() -> None:
    world = World()
    session, _ = await world.open(Hello(attempt=1), socket="first")
    hello = Hello(session_id=session.id, attempt=3)
    third, resumed = await world.open(hello, socket="third")
    assert resumed
    assert world.given_up == ["first"]
    late = Hello(session_id=session.id, attempt=2)
    assert await world.sessions.open(ALICE, late, lambda: None) is None
    assert world.given_up == ["first"]
    assert world.store.records[session.id] == third.record
    assert len(world.sessions) == 1


async def test_a_hello_without_an_attempt_counts_as_the_latest() -> None:
    world = World()
    session, _ = await world.open(Hello(attempt=4), socket="first")
    again, _ = await world.open(Hello(session_id=session.id))
    assert world.given_up == ["first"]
    assert again.record.attempt == 4


async def test_of_two_sockets_at_once_one_is_left() -> None:
    world = World()
    session, _ = await world.open(Hello())
    world.sessions.close(session)
    hello = Hello(session_id=session.id, attempt=1)
    await asyncio.gather(world.open(hello, socket="a"), world.open(hello, socket="b"))
    assert len(world.given_up) == 1
    assert len(world.sessions) == 1


async def test_the_socket_that_lost_the_session_does_not_close_it_for_the_other() -> None:
    world = World()
    first, _ = await world.open(Hello())
    second, _ = await world.open(Hello(session_id=first.id, attempt=1))
    world.sessions.close(first)
    assert len(world.sessions) == 1
    world.sessions.close(second)
    world.sessions.close(second)
    assert len(world.sessions) == 0


async def test_what_a_session_follows_is_stored_at_once() -> None:
    world = World()
    session, _ = await world.open(Hello())
    await asyncio.gather(session.follow("a"), session.follow("b"), session.follow("a"))
    assert set(world.store.records[session.id].contexts) == {"a", "b"}
    await session.unfollow("a")
    await session.unfollow("never followed")
    assert world.store.records[session.id].contexts == ("b",)


async def test_a_sweep_deletes_what_has_expired() -> None:
    world = World()
    await world.open(Hello())
    world.now += TTL / 2
    kept, _ = await world.open(Hello())
    world.now += TTL / 2
    assert await world.sessions.sweep() == 1
    assert set(world.store.records) == {kept.id}
