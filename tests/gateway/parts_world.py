"""Gateways of several instances in one process, whole but for their servers, over one store whose reads are counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from gateway.active_contexts import ActiveContexts
from gateway.assembly import Assembler
from gateway.auth.principal import Principal
from gateway.consent import Consent
from gateway.core.approval import Approvals
from gateway.core.inputs import ModelInput, TextInput, ToolResultInput
from gateway.core.policy import Policy
from gateway.core.stored_turn import StoredTurn
from gateway.declared_tools import DeclaredTools
from gateway.in_process import InProcessChannel
from gateway.metrics import Stats
from gateway.models.port import CallReady, Finish, ModelPiece, ModelRequest, TextPiece
from gateway.parts import Given, Parts
from gateway.routing import Routes
from gateway.run_services import no_checkpoint
from gateway.settings import ContextDefaults, Settings
from gateway.tools.builtin import TOOLS
from gateway.tools.catalog import Catalog
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from gateway.turn_request import decode_request
from protocol.codec import decode_server, encode
from protocol.frames import (
    Ack,
    ClientFrame,
    Error,
    Hello,
    Ready,
    SendMessage,
    ServerFrame,
    Snapshot,
    Subscribed,
    TurnEnd,
)
from protocol.ids import new_id
from stores.hot import Hot
from stores.memory import MemoryBus, MemoryCache, MemoryHeartbeats, MemoryLog
from stores.memory_leases import MemoryLeases
from stores.memory_limits import MemoryRateLimits
from stores.memory_threads import MemoryThreadCache
from stores.ports import ThreadCache
from stores.records import Claimed, ContextKey, Turn
from stores.sqlite import SqliteStore
from stores.store import Store

_T = TypeVar("_T")

__all__ = ["ANN", "KEY", "READS", "Counted", "Device", "Instance", "Shared", "shared"]

ANN = Principal(tenant="t", subject="ann")
KEY = ContextKey(ANN.owner, "chat")
READS = frozenset(
    {
        "active_turn",
        "find_event",
        "get_call",
        "get_context",
        "get_session",
        "history",
        "inputs",
        "load_turn",
        "next_turn",
        "older",
        "open_calls",
        "sessions_of",
        "thread",
        "unsequenced",
        "usage",
    }
)


class Counted:
    """A store as one instance has it. `reads` counts what only reads, but for looking around each second."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.reads: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> Any:
            if name in READS:
                self.reads[name] += 1
            return await method(*args, **options)

        return call


class Model:
    """Answers "tool" with a call and then its result, "wait" when `go_on` is set, and everything else with how much it
    was given. Each time it notes what it was given, and what whoever reads all of the store would have given it. Asked
    between turns, it makes a title."""

    name = "m"
    context_window = 1 << 20
    max_tokens = 100

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.given: list[Sequence[ModelInput]] = []
        self.cold: list[Sequence[ModelInput]] = []
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        turn = await self._store.active_turn(KEY)
        if turn is None:
            yield TextPiece("A title")
            yield Finish("stop")
            return
        self.given.append(list(request.inputs))
        self.cold.append(await self._read(turn))
        last = request.inputs[-1]
        yield TextPiece("so ")
        if isinstance(last, TextInput) and last.content == "wait":
            self.asked.set()
            await self.go_on.wait()
        if isinstance(last, TextInput) and last.content == "tool":
            yield CallReady("calculator", {"operation": "add", "a": 1, "b": 2})
        else:
            yield TextPiece(last.content if isinstance(last, ToolResultInput) else f"{len(request.inputs)}")
        yield Finish("stop")

    async def _read(self, turn: Turn) -> Sequence[ModelInput]:
        store = self._store
        rows = await store.load_turn(KEY, turn.id)
        assert rows is not None
        routes = Routes(
            Catalog(ToolRegistry(TOOLS)),
            ToolRunner(),
            Policy({}),
            DeclaredTools(store, MemoryCache()),
            Consent(Approvals({}, {}), store),
        )
        assembler = Assembler(ActiveContexts(store), {"m": self}, routes)
        unknown = StoredTurn(Claimed(rows=rows, newest=-1, born=-1))
        return (await assembler.assemble(turn, decode_request(turn.request), unknown)).request.inputs

    async def close(self) -> None: ...


class Shared:
    """What instances share. `threads` None: nothing of conversations."""

    def __init__(self, store: SqliteStore, threads: ThreadCache | None) -> None:
        self.store = store
        self.model = Model(store)
        self.threads = threads
        self.log, self.bus, self.heartbeats = MemoryLog(), MemoryBus(), MemoryHeartbeats()
        self.cache, self.limits, self.leases = MemoryCache(), MemoryRateLimits(), MemoryLeases()

    @property
    def hot(self) -> Hot:
        async def close() -> None: ...

        return Hot(
            log=self.log,
            bus=self.bus,
            heartbeats=self.heartbeats,
            cache=self.cache,
            tickets=MemoryCache(),
            limits=self.limits,
            leases=self.leases,
            threads=self.threads,
            tasks=(),
            close=close,
        )

    @asynccontextmanager
    async def instance(self, *, titles: bool = False) -> AsyncGenerator[Instance]:
        instance = Instance(self, titles=titles)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in await instance.parts.tasks()]
            await asyncio.sleep(0)
            try:
                yield instance
            finally:
                await instance.parts.drain(0)
                for task in tasks:
                    task.cancel()
        await instance.parts.finish()


@asynccontextmanager
async def shared(folder: Path, *, threads: bool = True) -> AsyncGenerator[Shared]:
    store = await SqliteStore.open(folder / "store.db")
    try:
        async with asyncio.timeout(60):
            yield Shared(store, MemoryThreadCache() if threads else None)
    finally:
        await store.close()


class Instance:
    def __init__(self, shared: Shared, *, titles: bool) -> None:
        self.store = Counted(shared.store)
        self.began = time.monotonic()
        given = Given(
            settings=Settings(context=ContextDefaults(titles=titles)),
            instance=new_id("inst_"),
            models={"m": shared.model},
            profiles={},
            registry=ToolRegistry(TOOLS),
            runner=ToolRunner(),
            policy=Policy({}),
            jwt=None,
            authenticate=None,
            local=False,
            stats=Stats(),
            checkpoint=no_checkpoint,
        )
        self.parts = Parts(given, cast("Store", self.store), shared.hot)

    async def idle(self) -> None:
        """Its turns are over, and what follows them."""
        parts = self.parts
        group = parts._turns._group  # pyright: ignore[reportPrivateUsage]
        after = parts._upkeep  # pyright: ignore[reportPrivateUsage]
        assert group is not None
        while len(parts._turns) or group._tasks or after._busy:  # type: ignore[attr-defined]  # pyright: ignore
            await asyncio.sleep(0.001)

    def forget_reads(self) -> None:
        self.store.reads.clear()
        self.began = time.monotonic()

    @property
    def reads(self) -> dict[str, int]:
        """What was read since. A turn that lasts looks each second for what was stored for it meanwhile."""
        reads = dict(self.store.reads)
        if time.monotonic() - self.began > 0.9:
            reads.pop("inputs", None)
        return reads

    async def connect(self, hello: Hello) -> Device:
        device = Device(self.parts.clients.open(ANN))
        await device.send(hello)
        ready = await device.until(Ready)
        device.session_id, device.resumed = ready.session_id, ready.resumed
        return device


class Device:
    """A client of one context. `cursor` is where it is."""

    session_id = ""
    resumed = False

    def __init__(self, channel: InProcessChannel) -> None:
        self._channel = channel
        self.cursor: str | None = None
        self._epoch = ""

    async def send(self, frame: ClientFrame) -> None:
        await self._channel.send(encode(frame))

    async def until(self, kind: type[_T]) -> _T:
        while not isinstance(frame := await self.receive(), kind):
            pass
        return frame

    async def say(self, text: str, **options: Any) -> None:
        """Say it, and wait for the end of the turn that answers."""
        frame = SendMessage(id=new_id("msg_"), content=text, context_id=KEY.id, **options)
        await self.send(frame)
        while not (isinstance(end := await self.receive(), TurnEnd) and end.turn_id == frame.id):
            pass

    async def receive(self) -> ServerFrame:
        frame = decode_server(await self._channel.receive())
        assert not isinstance(frame, Error), frame
        if isinstance(frame, Ack | Subscribed | Snapshot) and frame.epoch is not None:
            self._epoch = frame.epoch
        seq: int | None = getattr(frame, "seq", None)
        if seq is not None:
            self.cursor = f"{self._epoch}:{seq}"
        return frame

    async def leave(self) -> None:
        await self._channel.close()
