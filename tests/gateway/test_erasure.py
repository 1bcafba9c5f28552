"""A deletion that failed half-way is finished by the same call again, which finds nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from gateway.active_contexts import ActiveContexts
from gateway.contexts import Contexts
from gateway.declared_tools import DeclaredTools
from gateway.epochs import Epochs
from gateway.erasure import Erasure
from gateway.hub import Hub
from gateway.recorder import Recorder
from gateway.sessions import Sessions
from stores.memory import MemoryBus, MemoryCache, MemoryHeartbeats, MemoryLog
from stores.ports import NotFound, StoreError, Unavailable
from stores.records import ContextKey, LogBatch
from stores.sqlite import SqliteStore

KEY = ContextKey("t/ann", "c")
MARK = "zeppelin"


class Log(MemoryLog):
    """`away`: it can't be appended to."""

    away = False

    async def append(self, batches: Sequence[LogBatch]) -> list[dict[str, int] | StoreError]:
        if self.away:
            raise Unavailable("away")
        return await super().append(batches)


class World:
    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.log = Log()
        self.epochs = Epochs(store, self.log, Recorder(store, self.log).note)
        hub, active, bus, cache = Hub(store, self.log, self.epochs), ActiveContexts(store), MemoryBus(), MemoryCache()
        contexts = Contexts(store, self.log, self.epochs, hub, active, bus)
        declared = DeclaredTools(store, cache)
        heartbeats = MemoryHeartbeats()
        sessions = Sessions(store, "here", 60, bus=bus, cache=cache, heartbeats=heartbeats, tools=declared)
        self.erasure = Erasure(contexts, sessions, store)

    @property
    def traces(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if MARK.encode() in path.read_bytes()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = await SqliteStore.open(tmp_path / "store.db")
    try:
        await store.create_context(KEY, MARK, None)
        yield World(store, tmp_path)
    finally:
        await store.close()


async def test_a_scrub_that_failed_is_made_up_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scrub() -> bool:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(world.store, "scrub", scrub)
        with pytest.raises(Unavailable):
            await world.erasure.context(KEY)
    assert world.traces
    with pytest.raises(NotFound):
        await world.erasure.context(KEY)
    assert world.traces == []


async def test_what_was_left_between_the_deletion_and_the_scrub_is_done(world: World) -> None:
    await world.epochs.current(KEY)
    world.log.away = True
    with pytest.raises(Unavailable):
        await world.erasure.context(KEY)
    assert await world.log.head(KEY) is not None
    world.log.away = False
    with pytest.raises(NotFound):
        await world.erasure.context(KEY)
    assert await world.log.head(KEY) is None
    assert world.traces == []
