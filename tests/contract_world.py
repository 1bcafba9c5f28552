"""A gateway without sockets, in virtual time, to which anything may happen: instances that share a store and a log, die
and are replaced; logs that are lost; devices that are cut off, slow, or come back elsewhere; people who decide."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, cast

from gateway.active_contexts import ActiveContexts
from gateway.assembly import Assembler
from gateway.auth.principal import Principal
from gateway.consent import Consent
from gateway.conversations import Conversations
from gateway.core.approval import Approvals
from gateway.core.deadlines import Waits
from gateway.core.fold import Transcript
from gateway.core.policy import Policy
from gateway.declared_tools import DeclaredTools
from gateway.epochs import Epochs
from gateway.feed import Reader
from gateway.hub import Hub
from gateway.metrics import Stats
from gateway.models.port import CallReady, Finish, ModelError, ModelPiece, ModelRequest, TextPiece
from gateway.publisher import Publisher
from gateway.recorder import Recorder
from gateway.recovery import Recovery
from gateway.resources.reader import ResourceReader
from gateway.routing import Routes
from gateway.run_services import RunServices
from gateway.throttle import Throttle
from gateway.tools.catalog import Catalog
from gateway.tools.native import tool
from gateway.tools.port import ToolContext, ToolError
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from gateway.transport.port import Frames
from gateway.turns import Turns
from protocol.codec import decode_server, encode
from protocol.errors import ProtocolError
from protocol.frames import AnswerTool, ApproveTool, CallTool, Cancel, Message, SendMessage, Snapshot, ToolSpec
from stores.memory import MemoryBus, MemoryCache, MemoryHeartbeats, MemoryLog
from stores.memory_limits import MemoryRateLimits
from stores.memory_threads import MemoryThreadCache
from stores.ports import Bus, ContextStore, EventLog, Follower, Heartbeats, StoreError, ThreadCache, Unavailable
from stores.records import ContextKey, SessionRecord
from tests.reference_store import ReferenceStore

__all__ = ["CONTEXT", "DOCS", "KEY", "PRINCIPAL", "Device", "Instance", "World"]

PRINCIPAL = Principal(tenant="t", subject="s")
CONTEXT = "conv_1"
DOCS = ("docs:a", "docs:b")
KEY = ContextKey(PRINCIPAL.owner, CONTEXT)
_SESSION = "sess_1"
_WAITS = Waits(client=4.0, approval=9.0)  # seconds
_BROWSER = ToolSpec(name="browser", description="the user's browser", parameters={"type": "object"})


class _Severable:
    """A port as one instance has it: its calls take their time, sometimes fail, and end with the instance."""

    def __init__(self, port: object, owner: Instance) -> None:
        self._port = port
        self._owner = owner

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._port, name)
        owner = self._owner

        async def call(*args: Any) -> Any:
            await owner.delay()
            answer = await method(*args)
            await owner.delay()
            return answer

        return call


class _SeverableLog(_Severable):
    async def follow(self, key: ContextKey, follower: Follower) -> Callable[[], Awaitable[None]]:
        owner = self._owner

        def heed(publication: Any) -> None:
            if not owner.dead and owner.world.chance.random() >= owner.world.lossy:
                follower(publication)

        await owner.delay()
        return await cast("MemoryLog", self._port).follow(key, heed)


class _Sessions:
    """One session, which offers a client's tool."""

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        return [SessionRecord(id=_SESSION, owner=owner, attempt=0, expires_at=1e12, tools=encode([_BROWSER]))]

    async def take_session(self, session: SessionRecord, now: float, gone: str | None = None) -> bool:
        return True

    async def put_session(self, session: SessionRecord) -> bool:
        return True

    async def leave_session(self, id: str, holder: str) -> None: ...

    async def get_session(self, id: str, now: float) -> SessionRecord | None: ...

    async def delete_expired_sessions(self, now: float) -> int:
        return 0


class _Docs:
    """Two resources, which everybody may read."""

    async def may_read(self, principal: Principal, uri: str) -> bool:
        return uri in DOCS


class _Model:
    """Says and calls what chance wants."""

    name = "chance"
    context_window = 1 << 30
    max_tokens = 1000

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._said = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        chance = self._chance
        for _ in range(chance.randrange(8)):
            if chance.random() < 0.5:
                await asyncio.sleep(chance.choice([0, 0.001, 0.05, 0.7]))
            what = chance.random()
            self._said += 1
            if what < 0.7:
                yield TextPiece(f"<{self._said}>", chance.choice(["text", "text", "reasoning"]))
            elif what < 0.95:
                yield CallReady(
                    chance.choice(["charge", "lookup", "pay", "wonder", "browser", "nothing"]), {"n": self._said}
                )
            else:
                raise ModelError("provider_error", "chance", retryable=chance.random() < 0.7)
        yield Finish(chance.choice(["stop", "stop", "length"]))

    async def close(self) -> None: ...


class Instance:
    """One process: all of the gateway that lies between sockets and stores."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self._awake = asyncio.Event()
        self._awake.set()
        store = cast("ContextStore", _Severable(world.store, self))
        log = cast("EventLog", _SeverableLog(world.log, self))
        sessions = _Sessions()
        recorder = Recorder(store, log)
        publisher = Publisher(log)
        epochs = Epochs(store, log, recorder.note)
        bus, threads = cast("Bus", _Severable(world.bus, self)), cast("ThreadCache", _Severable(world.threads, self))
        declared = DeclaredTools(sessions, MemoryCache())
        routes = Routes(
            Catalog(ToolRegistry(world.tools())), ToolRunner(), Policy({}), declared, Consent(Approvals({}, {}), store)
        )
        model = _Model(world.chance)
        services = RunServices(
            store=store,
            log=log,
            epochs=epochs,
            recorder=recorder,
            publisher=publisher,
            models={"chance": model},
            routes=routes,
            assembler=Assembler(ActiveContexts(store, cache=threads), {"chance": model}, routes),
            stats=Stats(),
            max_steps=4,
            max_retries=2,
            checkpoint=self._checkpoint,
            waits=_WAITS,
            clock=asyncio.get_running_loop().time,
        )
        turns = Turns(services, name, 100, bus)
        recovery = Recovery(store, cast("Heartbeats", _Severable(world.heartbeats, self)), epochs, turns)
        self.hub = Hub(store, log, epochs)
        self.conversations = Conversations(
            store=store,
            epochs=epochs,
            turns=turns,
            routes=routes,
            models={"chance": model},
            default_model="chance",
            policy=Policy({}),
            throttle=Throttle(MemoryRateLimits(), 1_000_000),
            resources=cast("ResourceReader", _Docs()),
        )
        work: list[Coroutine[None, None, None]] = [recorder.run(), publisher.run(), self.hub.run(), turns.run()]
        self._services = [asyncio.create_task(each) for each in (*work, recovery.beat(), recovery.run())]
        self._asked: set[asyncio.Task[None]] = set()

    async def delay(self) -> None:
        chance = self.world.chance
        if chance.random() < 0.3:
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02]))
        await self._awake.wait()
        if self.dead:
            raise asyncio.CancelledError
        if chance.random() < self.world.flaky:
            raise Unavailable("chance")

    async def _checkpoint(self, name: str) -> None:
        """Between two durable steps the process may die at once."""
        if self.world.chance.random() < self.world.deadly:
            self.dead = True
            raise asyncio.CancelledError

    def pause(self) -> None:
        """It stands still, as under a debugger, and does not know it: others may take its turns meanwhile."""
        self._awake.clear()

    def go_on(self) -> None:
        self._awake.set()

    def ask(self, work: Coroutine[Any, Any, Any]) -> None:
        """What a client wants of the instance; it ends with it."""
        task = asyncio.create_task(self._answer(work))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _answer(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except (StoreError, ProtocolError):
            return  # refused: nothing was promised

    async def kill(self) -> None:
        """Nothing that it was about to do happens."""
        self.dead = True
        self._awake.set()
        tasks = [*self._services, *self._asked]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def check(self) -> None:
        """None of its services has stopped: whatever happened, they go on."""
        assert self.dead or not any(task.done() for task in self._services)


class Device:
    """A client that follows the context and checks all that it is sent; also the `Outlet` that it is sent by."""

    last_seen = 0.0
    unsent_since = None

    def __init__(self, world: World) -> None:
        self._world = world
        self.transcript = Transcript(CONTEXT)
        self.instance: Instance | None = None
        self._reader: Reader | None = None
        self._inbox: list[bytes] = []
        self._slow = False
        self._connection = 0

    # -- the outlet

    @property
    def writable(self) -> bool:
        return not self._slow or len(self._inbox) < 3

    def write(self, frames: Frames) -> None:
        self._inbox.extend(frames.payloads)
        self._read_unless_slow()

    def write_one(self, payload: bytes) -> None:
        self._inbox.append(payload)
        self._read_unless_slow()

    def on_drain(self, callback: Callable[[], None]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def ping(self) -> None: ...

    # -- the client

    def _read_unless_slow(self) -> None:
        if not self._slow:
            self._read()

    def _read(self) -> None:
        inbox, self._inbox = self._inbox, []
        for payload in inbox:
            frame = decode_server(payload)
            if isinstance(frame, Snapshot):
                self.transcript.snapshot(frame)
                continue
            if isinstance(frame, Message):
                partial = self.transcript.partial.get(frame.id)
                assert partial is None or partial.text == frame.content, "a message is what was streamed of it"
            self.transcript.apply(cast("Any", frame))

    async def connect(self, instance: Instance) -> None:
        self._connection += 1
        connection = self._connection
        self.instance = instance
        while True:
            try:
                start = await instance.hub.follow(KEY, self, self.transcript.cursor)
                break
            except StoreError:
                await asyncio.sleep(0.2)
            if connection != self._connection:
                return
        if connection != self._connection:
            await instance.hub.unfollow(start.reader)
            return
        self._reader = start.reader
        if start.snapshot is not None:
            self.write_one(start.snapshot)
        else:
            assert start.cursor == self.transcript.cursor
        instance.hub.uncork(start.reader)

    async def cut(self) -> None:
        """The socket is gone, and what was on its way."""
        self._connection += 1
        self._inbox.clear()
        reader, self._reader = self._reader, None
        if reader is not None and self.instance is not None and not self.instance.dead:
            await self.instance.hub.unfollow(reader)
        self.instance = None

    def slow_down(self) -> None:
        self._slow = True

    def catch_up(self) -> None:
        self._slow = False
        self._read()
        if self._reader is not None and self.instance is not None and not self.instance.dead:
            self.instance.hub.pump(self._reader)


class World:
    """`seed` decides all that happens."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - to be the same each time
        self.deadly = self.chance.choice([0.0, 0.03])
        self.flaky = self.chance.choice([0.0, 0.0, 0.02])
        self.lossy = self.chance.choice([0.0, 0.0, 0.1])
        self.store = ReferenceStore(asyncio.get_running_loop().time)
        self.log = MemoryLog(max_bytes=self.chance.choice([600, 1 << 20]), clock=asyncio.get_running_loop().time)
        self.heartbeats = MemoryHeartbeats(asyncio.get_running_loop().time)
        self.bus = MemoryBus()
        self.threads = MemoryThreadCache()
        self.runs: Counter[str] = Counter()
        self.heard: Counter[tuple[str, str]] = Counter()
        self.acknowledged: list[str] = []
        self._born = 0
        self._sent = 0
        self.instances = [self.born() for _ in range(2)]
        self.devices = [Device(self) for _ in range(3)]

    def born(self) -> Instance:
        self._born += 1
        return Instance(self, f"inst_{self._born}")

    def tools(self) -> Sequence[Any]:
        """`charge` and `pay` must not be run twice, `lookup` may; `pay` asks first; `wonder` asks while it runs, one or
        two things at a time, and sometimes waits no longer."""
        chance, runs, heard = self.chance, self.runs, self.heard

        async def work(ctx: ToolContext) -> str:
            runs[ctx.call_id] += 1
            for step in range(chance.randrange(3)):
                await asyncio.sleep(chance.choice([0, 0.01, 0.9]))
                await ctx.progress(step)
            return "done"

        @tool()
        async def charge(ctx: ToolContext, n: int) -> str:
            return await work(ctx)

        @tool(approval="always")
        async def pay(ctx: ToolContext, n: int) -> str:
            return await work(ctx)

        @tool(idempotent=True)
        async def lookup(ctx: ToolContext, n: int) -> str:
            answer = await work(ctx)
            runs[ctx.call_id] = 0
            return answer

        @tool()
        async def wonder(ctx: ToolContext, n: int) -> str:
            runs[ctx.call_id] += 1

            async def ask() -> None:
                answer = await ctx.ask(f"Are you sure of {n}?")
                heard[ctx.call_id, answer.action] += 1

            for _ in range(chance.randrange(3)):
                with suppress(TimeoutError):
                    async with asyncio.timeout(chance.choice([0.01, 1.0, None, None])), asyncio.TaskGroup() as group:
                        for _ in range(chance.choice([1, 1, 2])):
                            group.create_task(ask())
            return "done"

        @tool(idempotent=True)
        async def read_resource(ctx: ToolContext, uri: str) -> dict[str, str]:
            await work(ctx)
            runs[ctx.call_id] = 0
            if chance.random() < 0.2:
                raise ToolError("there is no such resource")
            return {"uri": uri, "mime_type": "text/plain", "text": "what it says"}

        return [charge, pay, lookup, wonder, read_resource]

    # -- what happens

    def id(self) -> str:
        self._sent += 1
        return f"id_{self._sent}"

    async def happen(self) -> None:
        """One thing."""
        chance = self.chance
        for dead in [each for each in self.instances if each.dead]:
            await self.kill(dead)
        roll = chance.random()
        instance = chance.choice(self.instances)
        device = chance.choice(self.devices)
        if roll < 0.2:
            instance.ask(self._send(instance))
        elif roll < 0.25:
            instance.ask(self._call(instance))
        elif roll < 0.3:
            instance.ask(self._cancel(instance))
        elif roll < 0.45:
            self.decide(instance)
        elif roll < 0.55:
            await device.cut()
            instance.ask(device.connect(instance))
        elif roll < 0.62:
            device.slow_down()
        elif roll < 0.72:
            device.catch_up()
        elif roll < 0.76:
            await self.kill(instance)
        elif roll < 0.79:
            await self.log.drop(KEY)
        elif roll < 0.8:
            for each in tuple(self.instances):
                await self.kill(each)
            await self.log.drop(KEY)
        elif roll < 0.84:
            instance.pause()
        elif roll < 0.9:
            instance.go_on()
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01, 0.1, 0.5, 2.0, 6.0]))

    async def kill(self, instance: Instance) -> None:
        await instance.kill()
        self.instances[self.instances.index(instance)] = self.born()
        for device in self.devices:
            if device.instance is instance:
                await device.cut()

    async def _send(self, instance: Instance) -> None:
        busy = self.chance.choice(["queue", "queue", "interrupt", "steer", "reject"])
        frame = SendMessage(
            id=self.id(),
            content="hello",
            context_id=CONTEXT,
            when_busy=cast("Any", busy),
            resources=self.chance.choice([None, None, [*DOCS], [DOCS[1]]]),
            respond=self.chance.random() < 0.85,
        )
        await instance.conversations.send(PRINCIPAL, frame, _SESSION)
        self.acknowledged.append(frame.id)

    async def _call(self, instance: Instance) -> None:
        name = self.chance.choice(["charge", "lookup", "pay", "wonder", "browser"])
        frame = CallTool(id=self.id(), tool=name, parameters={"n": 1}, context_id=CONTEXT)
        await instance.conversations.call(PRINCIPAL, frame, _SESSION)
        self.acknowledged.append(frame.id)

    async def _cancel(self, instance: Instance) -> None:
        calls = list(self.devices[0].transcript.running)
        call = self.chance.choice(calls) if calls and self.chance.random() < 0.5 else None
        await instance.conversations.cancel(PRINCIPAL, Cancel(id=self.id(), context_id=CONTEXT, tool_call_id=call))

    def decide(self, instance: Instance) -> None:
        """People and clients answer what some device shows."""
        calls = [running.call for running in self.chance.choice(self.devices).transcript.running.values()]
        for call in [call for call in calls if call.approval is not None or call.runs_on == "client"][:2]:
            if call.approval is not None:
                approval = ApproveTool(
                    id=f"approve_{call.id}",
                    tool_call_id=call.id,
                    context_id=CONTEXT,
                    approved=self.chance.random() < 0.7,
                    parameters=self.chance.choice([None, {"n": 7}]),
                )
                instance.ask(instance.conversations.approve(PRINCIPAL, approval))
            else:
                answer = AnswerTool(
                    id=f"answer_{call.id}", tool_call_id=call.id, context_id=CONTEXT, result=1, status="success"
                )
                instance.ask(instance.conversations.answer(PRINCIPAL, answer, _SESSION))
