"""Puts the gateway together from its settings: the one place that names concrete adapters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from importlib.metadata import version
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.types import Receive, Scope, Send

from gateway.active_contexts import ActiveContexts
from gateway.assembly import Assembler, Profile
from gateway.auth.api_keys import ApiKeys
from gateway.auth.authenticator import LOCAL, Authenticator
from gateway.auth.host import Authenticate, HostScheme
from gateway.auth.jwt import JwtVerifier
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from gateway.budget_settings import budget_of
from gateway.budgets import Budgets
from gateway.client import Client, open_client
from gateway.client_core import Options
from gateway.client_link import Tokens
from gateway.client_port import Channel
from gateway.connection import Services
from gateway.contexts import Contexts
from gateway.conversations import Conversations
from gateway.core.policy import Policy
from gateway.door import Door
from gateway.epochs import Epochs
from gateway.erasure import Erasure
from gateway.export import Exports
from gateway.http.answers import answer_routes
from gateway.http.closed import Closed
from gateway.http.contexts import context_routes
from gateway.http.messages import message_routes
from gateway.http.ops import ops_routes
from gateway.http.page import page_routes
from gateway.http.personal import personal_routes
from gateway.http.replies import Guard
from gateway.http.search import search_routes
from gateway.http.stream import stream_routes
from gateway.http.streams import Streams
from gateway.http.usage import usage_routes
from gateway.hub import Hub
from gateway.in_process import InProcess
from gateway.logs import route_logs
from gateway.metering import Meter, price_of
from gateway.metrics import Stats, timed
from gateway.models.port import ModelClient
from gateway.models.registry import build_models
from gateway.profiles import profile_of
from gateway.publisher import Publisher
from gateway.recorder import Recorder
from gateway.recovery import Recovery
from gateway.routing import Routes
from gateway.run_services import Checkpoint, RunServices, no_checkpoint
from gateway.sessions import Sessions
from gateway.settings import Settings
from gateway.throttle import Connections, Throttle
from gateway.tools.builtin import TOOLS
from gateway.tools.native import as_tool
from gateway.tools.port import Tool
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from gateway.turn_places import TurnPlaces
from gateway.turns import Turns
from gateway.upkeep import Upkeep, UpkeepOptions
from gateway.wheel import Wheel
from protocol.frames import ClientInfo, Limits
from protocol.ids import new_id
from stores.connect import Store, open_store
from stores.memory import MemoryCache, MemoryHeartbeats, MemoryLog
from stores.ports import ContextStore, EventLog, Unavailable

__all__ = ["Gateway", "create_app"]

_log = structlog.get_logger(__name__)
_LOCAL_TICKET_SECONDS = 24 * 3600.0
_SWEEP_SECONDS = 3600.0


class _Phase(Enum):
    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class Gateway:
    """A gateway of one process, alone or within a host's application (docs/embedding.md).

    `tools` come beside those of the settings: functions, with or without `@tool`. `authenticate` says for the host who
    a connection is, before the built-in schemes. `models` come in place of the settings' (None), and are closed at the
    end. `app` is the ASGI application; it serves while `running` is entered and refuses otherwise.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        authenticate: Authenticate | None = None,
        models: Mapping[str, ModelClient] | None = None,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        """Raises the errors of settings that can't be used: of models, tools, tokens."""
        self.settings = settings
        self._checkpoint = checkpoint
        self._authenticate = authenticate
        self._policy = Policy(settings.permissions)
        self._registry = ToolRegistry(TOOLS)
        self._registry.load(settings.tools.modules)
        for tool in tools:
            self._registry.add(as_tool(tool))
        self._given_models = models
        self._local = False
        self._phase = _Phase.IDLE
        self._worn = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._door: Door
        self._turns: Turns
        self._recorder: Recorder
        self._clients: InProcess
        self._served: list[BaseRoute] = []
        self._closed: list[BaseRoute] = [Mount("/", Closed())]
        self.app: Starlette = _Application(routes=self._closed, lifespan=self.lifespan)
        self._renew()

    def _renew(self) -> None:
        """What a life of the gateway uses up."""
        settings = self.settings
        self.instance = new_id("inst_")
        self.stats = Stats()
        given = self._given_models
        # A cache of its own: answers must not crowd out tickets.
        self.models = dict(given) if given is not None else build_models(settings.models, cache=MemoryCache())
        self._jwt = JwtVerifier(settings.auth.jwt) if settings.auth.jwt is not None else None
        self._tickets = Tickets(MemoryCache())
        self._runner = ToolRunner(settings.limits.max_result_bytes)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:
        """`running` in the shape that Starlette and FastAPI take as their `lifespan`. The lifespan of an application
        that is mounted is not run by them: whoever mounts `app` passes this."""
        async with self.running():
            yield

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the store, serve, and on the way out drain and close. It may be entered again after that; while it is
        entered, it raises RuntimeError."""
        if self._phase is not _Phase.IDLE:
            raise RuntimeError(f"this gateway is {self._phase.value} already: it is entered once at a time")
        self._phase = _Phase.STARTING
        failure: BaseException | None = None
        try:
            route_logs()
            self._loop = asyncio.get_running_loop()
            if self._worn:
                self._renew()
            self._worn = True
            store = await open_store(self.settings.store.url)
            try:
                self._assemble(store)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(work) for work in await self._tasks()]
                    # Not before the tasks have begun: the first client needs them.
                    await asyncio.sleep(0)
                    self._phase = _Phase.RUNNING
                    self.app.router.routes = self._served
                    try:
                        yield
                    except BaseException as error:  # noqa: BLE001 - raised below: the group would wrap the host's error
                        failure = error
                    finally:
                        await self.drain(0)
                        self._phase = _Phase.STOPPING
                        self.app.router.routes = self._closed
                        for task in tasks:
                            task.cancel()
                await self._recorder.flush_all()
            finally:
                await self._close(store)
        finally:
            self.app.router.routes = self._closed
            self._phase = _Phase.IDLE
        if failure is not None:
            raise failure

    async def _close(self, store: Store) -> None:
        await self._runner.close()
        for model in self.models.values():
            await model.close()
        if self._jwt is not None:
            await self._jwt.close()
        await store.close()

    def connect(
        self,
        principal: Principal,
        *,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        name: str = "in-process",
        session_id: str | None = None,
        open_timeout: float = 10.0,
        retries: int = 4,
        bound: int = 256,
    ) -> AbstractAsyncContextManager[Client]:
        """A client in this process that is the principal, without a socket: as `gateway.client.connect`, whose options
        these are. Raises RuntimeError unless the gateway runs, in this event loop."""
        if self._phase is not _Phase.RUNNING:
            raise RuntimeError("the gateway is not running: enter gateway.running(), or gateway.lifespan, before")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the gateway runs in another event loop, and can be called in process from there only")

        async def open_channel() -> Channel:
            return self._clients.open(principal)

        return open_client(
            open_channel,
            Tokens(None, None),
            [as_tool(tool) for tool in tools],
            Options(retries=retries, bound=bound, random=random.random),
            info=ClientInfo(name, version("tidegate")),
            session_id=session_id,
            open_timeout=open_timeout,
        )

    def listen_alone(self) -> None:
        """For who serves `app` on an address of its own that `check_exposure` allows: where no authentication is
        configured, whoever holds the ticket of `local_ticket` is the user `local`. Called before `running`."""
        self._local = self.settings.local

    async def local_ticket(self) -> str:
        """A ticket that opens the page as the user `local`, once. Raises RuntimeError where nobody may be that."""
        if not self._local:
            raise RuntimeError("there is no user 'local' here: this gateway does not listen by itself")
        return await self._tickets.issue(LOCAL, ttl=_LOCAL_TICKET_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Tell every client to go, let turns end for so long, leave the rest to others, and close the sockets."""
        if self._phase is not _Phase.RUNNING:
            return
        self._door.goaway(retry_after=max(1.0, min(seconds, 10.0)))
        self._streams.goaway()
        await self._turns.drain(seconds)
        await self._streams.close(2.0)
        await self._door.close(1012, 2.0)
        await self._heartbeats.stop(self.instance)

    # ---- assembly

    def _assemble(self, store: Store) -> None:
        settings, limits, stats = self.settings, self.settings.limits, self.stats
        contexts: ContextStore = timed(store, stats.store_seconds)
        log: EventLog = timed(MemoryLog(max_bytes=settings.log.max_bytes, ttl=settings.log.ttl), stats.log_seconds)
        self._heartbeats = MemoryHeartbeats()
        self._recorder = Recorder(contexts, log)
        self._publisher = Publisher(log, settings.log.flush_ms / 1000)
        self._epochs = Epochs(contexts, log, self._recorder.note)
        routes = Routes(self._registry, self._runner, self._policy, store)
        budgets = Budgets([budget_of(name, spec) for name, spec in settings.budgets.items()], store)
        prices = {name: price_of(spec) for name, spec in settings.models.items()}
        active = ActiveContexts(contexts, settings.context.active_bytes)
        assembler = Assembler(active, self.models, routes, self._profiles(), budgets)
        meter = Meter(prices, stats, store, budgets)
        self._upkeep = Upkeep(contexts, self._epochs, active, assembler, self.models, meter, self._upkeep_options())
        services = RunServices(
            store=contexts,
            log=log,
            epochs=self._epochs,
            recorder=self._recorder,
            publisher=self._publisher,
            models=self.models,
            routes=routes,
            assembler=assembler,
            stats=stats,
            max_steps=limits.max_steps,
            checkpoint=self._checkpoint,
            turn_over=self._upkeep.turn_over,
            meter=meter,
        )
        self._turns = Turns(services, self.instance, limits.concurrent_turns)
        self._recovery = Recovery(contexts, self._heartbeats, self._epochs, self._turns)
        self._hub = Hub(contexts, log, self._epochs)
        self._wheel = Wheel()
        self._sessions = Sessions(store, self.instance, limits.session_ttl)
        origins = settings.server.origins
        host = HostScheme(self._authenticate, origins) if self._authenticate is not None else None
        authenticator = Authenticator(ApiKeys(store), self._jwt, self._tickets, self._local, host)
        conversations = Conversations(
            store=contexts,
            log=log,
            epochs=self._epochs,
            turns=self._turns,
            routes=routes,
            models=self.models,
            default_model=next(iter(self.models)),
            policy=self._policy,
            throttle=Throttle(limits.messages_per_minute),
            queue_length=limits.queue_length,
            budgets=budgets,
        )
        connections = self._connections(conversations)
        self._door = Door(connections, authenticator, origins)
        self._streams = Streams(self._hub, connections.sockets, self._wheel, limits.heartbeat)
        self._clients = InProcess(self._door)
        self._observe()
        guard = Guard(authenticator)
        managed = Contexts(contexts, log, self._epochs, self._hub, active)
        self._served = [
            WebSocketRoute("/v1/ws", self._door),
            *context_routes(guard, managed, limits.max_frame_bytes),
            *stream_routes(guard, self._streams, managed),
            *message_routes(
                guard, self._streams, conversations, TurnPlaces(contexts, log, self._epochs), limits.max_frame_bytes
            ),
            *answer_routes(guard, conversations, limits.max_frame_bytes),
            *search_routes(guard, store),
            *usage_routes(guard, self._policy, store, budgets),
            *personal_routes(guard, managed, Erasure(managed, self._sessions, store), Exports(store)),
            *ops_routes(guard, self._tickets, routes, stats, lambda: self._ready(contexts)),
            *page_routes(self._tickets, authenticator, settings),
        ]

    def _profiles(self) -> dict[str, Profile]:
        specs = self.settings.models if self._given_models is None else {}
        return {name: profile_of(spec) for name, spec in specs.items()}

    def _upkeep_options(self) -> UpkeepOptions:
        made = self.settings.context
        return UpkeepOptions(titles=made.titles, title_model=made.title_model, summary_model=made.summary_model)

    def _connections(self, conversations: Conversations) -> Services:
        limits = self.settings.limits
        return Services(
            conversations=conversations,
            hub=self._hub,
            sessions=self._sessions,
            sockets=Connections(limits.connections_per_principal),
            wheel=self._wheel,
            stats=self.stats,
            limits=Limits(
                max_frame_bytes=limits.max_frame_bytes,
                max_unacked=limits.max_unacked,
                messages_per_minute=limits.messages_per_minute,
            ),
            # Everything that is no message is cheap: ten times as much of it is still no flood.
            frames_per_minute=max(6000, 10 * limits.messages_per_minute),
            heartbeat=limits.heartbeat,
            hello_seconds=limits.hello_seconds,
            models=tuple(self.models),
            default_model=next(iter(self.models)),
            instance=self.instance,
            version=version("tidegate"),
        )

    async def _tasks(self) -> list[Coroutine[None, None, None]]:
        # Nobody may judge this instance dead before its first beat.
        await self._heartbeats.beat(self.instance, 5.0)
        return [
            self._recorder.run(),
            self._publisher.run(),
            self._wheel.run(),
            self._hub.run(),
            self._turns.run(),
            self._upkeep.run(),
            self._clients.run(),
            self._recovery.beat(),
            self._recovery.run(),
            self._sweep(),
        ]

    async def _sweep(self) -> None:
        while True:
            try:
                await self._sessions.sweep()
            except Unavailable as error:
                _log.warning("expired sessions were not deleted", reason=str(error))
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _ready(self, store: ContextStore) -> str | None:
        try:
            async with asyncio.timeout(2):
                await store.turns_to_run((self.instance,), 1)
                await self._heartbeats.alive()
        except (Unavailable, TimeoutError):
            return "the store is away"
        return None

    def _observe(self) -> None:
        stats, hub = self.stats, self._hub
        stats.observe("tidegate_sessions", "Sessions with a socket.", lambda: len(self._sessions))
        stats.observe("tidegate_streams", "Responses that follow a context.", lambda: len(self._streams))
        stats.observe("tidegate_live_contexts", "Contexts that somebody follows.", lambda: hub.contexts)
        stats.observe("tidegate_frames_sent", "Frames sent.", lambda: hub.tally.frames)
        stats.observe("tidegate_turns_running", "Turns that run here.", lambda: len(self._turns))
        stats.observe("tidegate_epochs_begun", "Logs begun.", lambda: self._epochs.begun)
        stats.observe(
            "tidegate_reader_lag_events",
            "Events that the slowest reader is behind.",
            lambda: max((reader.feed.head - reader.seq for reader in hub.readers()), default=0),
        )


class _Application(Starlette):
    """Leaves the host's application in the scope, where the host's `authenticate` looks for its state."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope.setdefault("app", self)
        await self.middleware_stack(scope, receive, send)


def create_app(settings: Settings) -> Starlette:
    """The gateway as an ASGI application, for any server that runs its lifespan."""
    return Gateway(settings).app
