"""Instances that share sessions, where a test may stop a call, or have it fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from gateway.auth.principal import Principal
from gateway.declared_tools import DeclaredTools
from gateway.sessions import Session, Sessions
from protocol.frames import Hello, ToolSpec
from stores.memory import MemoryBus, MemoryCache, MemoryHeartbeats
from stores.ports import Unavailable
from stores.records import SessionRecord

__all__ = ["ALICE", "BOB", "BROWSER", "TTL", "SessionWorld", "settled"]

ALICE, BOB = Principal(tenant="t", subject="alice"), Principal(tenant="t", subject="bob")
TTL = 100.0
BROWSER = ToolSpec(name="browser", description="a browser", parameters={"type": "object"})


async def settled() -> None:
    """Whatever is about to happen in this process has happened: nothing here waits for anything but the loop."""
    for _ in range(60):
        await asyncio.sleep(0)


class Calls:
    """What the ports were asked. A call of a name in `away` fails; one of the name `stop_at`, once, is stopped."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.away: set[str] = set()
        self.stop_at: str | None = None
        self.stopped = asyncio.Event()
        self.go_on = asyncio.Event()

    async def call(self, name: str) -> None:
        """Yields as I/O would."""
        self.made[name] += 1
        await asyncio.sleep(0)
        if name in self.away:
            raise Unavailable(name)
        if name == self.stop_at:
            self.stop_at = None
            self.stopped.set()
            await self.go_on.wait()


class Store:
    """A SessionStore of one dictionary. Calls are stopped before and ("-done") after what they do."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.records: dict[str, SessionRecord] = {}

    def _held(self, session: SessionRecord, gone: str | None) -> SessionRecord | None:
        stored = self.records.get(session.id)
        return None if stored is None or stored.holder in (None, gone) else stored

    async def take_session(self, session: SessionRecord, now: float, gone: str | None = None) -> bool:
        await self._calls.call("store.take")
        held = self._held(session, gone)
        took = held is None or held.attempt <= session.attempt or held.expires_at <= now
        if took:
            self.records[session.id] = session
        await self._calls.call("store.take-done")
        return took

    async def put_session(self, session: SessionRecord) -> bool:
        await self._calls.call("store.put")
        held = self._held(session, session.holder)
        if held is None:
            self.records[session.id] = session
        await self._calls.call("store.put-done")
        return held is None

    async def leave_session(self, id: str, holder: str) -> None:
        await self._calls.call("store.leave")
        stored = self.records.get(id)
        if stored is not None and stored.holder == holder:
            self.records[id] = SessionRecord(
                id=id,
                owner=stored.owner,
                attempt=stored.attempt,
                expires_at=stored.expires_at,
                tools=stored.tools,
                contexts=stored.contexts,
            )

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        await self._calls.call("store.get")
        record = self.records.get(id)
        return record if record is not None and record.expires_at > now else None

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        found = [record for record in self.records.values() if record.owner == owner and record.tools != b"[]"]
        found = [record for record in found if record.expires_at > now]
        await self._calls.call("store.of")
        return found[::-1]

    async def delete_expired_sessions(self, now: float) -> int:
        expired = [id for id, record in self.records.items() if record.expires_at <= now]
        for id in expired:
            del self.records[id]
        return len(expired)


class Cache(MemoryCache):
    """Names its calls after what they are about: `cache.get session`."""

    def __init__(self, calls: Calls, world: SessionWorld) -> None:
        super().__init__(clock=lambda: world.now)
        self._calls = calls

    async def get(self, key: str) -> bytes | None:
        await self._calls.call(f"cache.get {key.partition(':')[0]}")
        return await super().get(key)

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        await self._calls.call(f"cache.set {key.partition(':')[0]}")
        await super().set(key, value, ttl)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        await self._calls.call(f"cache.add {key.partition(':')[0]}")
        if await super().get(key) is not None:
            return False
        await super().set(key, value, ttl)
        return True

    async def take(self, key: str) -> bytes | None:
        await self._calls.call(f"cache.take {key.partition(':')[0]}")
        return await super().take(key)


class Bus(MemoryBus):
    """While `holding`, what is published waits in `held`; `losing`, it is lost."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self._calls = calls
        self.holding = self.losing = False
        self.held: list[tuple[str, bytes]] = []

    async def publish(self, channel: str, payload: bytes) -> None:
        await self._calls.call("bus.publish")
        if self.holding:
            self.held.append((channel, payload))
        elif not self.losing:
            await super().publish(channel, payload)

    async def deliver(self) -> None:
        """What was held arrives, the last first."""
        self.holding = False
        held, self.held = self.held, []
        for channel, payload in reversed(held):
            await super().publish(channel, payload)


class Heartbeats(MemoryHeartbeats):
    """`unsure`: nobody can be judged."""

    def __init__(self, calls: Calls, world: SessionWorld) -> None:
        super().__init__(clock=lambda: world.now)
        self._calls = calls
        self.unsure = False

    async def alive(self) -> frozenset[str] | None:
        await self._calls.call("heartbeats.alive")
        return None if self.unsure else await super().alive()


class SessionWorld:
    """Two instances, "one" and "two"."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls = Calls()
        self.store = Store(self.calls)
        self.cache = Cache(self.calls, self)
        self.bus = Bus(self.calls)
        self.heartbeats = Heartbeats(self.calls, self)
        self.one, self.two = self._instance("one"), self._instance("two")
        self.given_up: list[str] = []

    def _instance(self, name: str) -> Sessions:
        return Sessions(
            self.store,
            name,
            TTL,
            bus=self.bus,
            cache=self.cache,
            heartbeats=self.heartbeats,
            tools=DeclaredTools(self.store, self.cache, lambda: self.now),
            clock=lambda: self.now,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Both instances live and hear each other."""
        for name in ("one", "two"):
            await self.heartbeats.beat(name, 1e9)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sessions.run()) for sessions in (self.one, self.two)]
            await settled()
            yield
            for task in tasks:
                task.cancel()
        assert len(self.bus) == 0

    async def ask(
        self, sessions: Sessions, hello: Hello, socket: str = "", principal: Principal = ALICE
    ) -> tuple[Session, bool] | None:
        return await sessions.open(principal, hello, lambda: self.given_up.append(socket))

    async def open(
        self, sessions: Sessions, hello: Hello, socket: str = "", principal: Principal = ALICE
    ) -> tuple[Session, bool]:
        opened = await self.ask(sessions, hello, socket, principal)
        assert opened is not None
        return opened

    def holder(self, session: Session) -> str | None:
        return self.store.records[session.id].holder
