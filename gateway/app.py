"""Puts the gateway together from its settings: the one place that names concrete adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from starlette.applications import Starlette
from starlette.routing import BaseRoute, WebSocketRoute

from gateway.auth.api_keys import ApiKeys
from gateway.auth.authenticator import LOCAL, Authenticator, CustomScheme
from gateway.auth.jwt import JwtVerifier
from gateway.auth.tickets import Tickets
from gateway.connection import Services
from gateway.contexts import Contexts
from gateway.conversations import Conversations
from gateway.core.policy import Policy
from gateway.door import Door
from gateway.epochs import Epochs
from gateway.http.contexts import context_routes
from gateway.http.ops import ops_routes
from gateway.http.page import page_routes
from gateway.http.replies import Guard
from gateway.hub import Hub
from gateway.metrics import Stats, timed
from gateway.models.port import ModelClient
from gateway.models.registry import build_models
from gateway.publisher import Publisher
from gateway.recorder import Recorder
from gateway.recovery import Recovery
from gateway.routing import Routes
from gateway.run_services import Checkpoint, RunServices, no_checkpoint
from gateway.sessions import Sessions
from gateway.settings import Settings
from gateway.throttle import Connections, Throttle
from gateway.tools.builtin import TOOLS
from gateway.tools.port import Tool
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from gateway.turns import Turns
from gateway.wheel import Wheel
from protocol.frames import Limits
from protocol.ids import new_id
from stores.connect import Store, open_store
from stores.memory import MemoryCache, MemoryHeartbeats, MemoryLog
from stores.ports import ContextStore, EventLog, Unavailable

__all__ = ["Gateway", "create_app"]

_log = structlog.get_logger(__name__)
_LOCAL_TICKET_SECONDS = 24 * 3600.0
_SWEEP_SECONDS = 3600.0


class Gateway:
    """A gateway of one process. `tools` come beside those of the settings, `authenticate` before the built-in schemes,
    `models` in place of the settings' (None). `app` serves while `running` is entered, once."""

    def __init__(
        self,
        settings: Settings,
        *,
        tools: Iterable[Tool] = (),
        authenticate: CustomScheme | None = None,
        models: Mapping[str, ModelClient] | None = None,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        """Raises the errors of settings that can't be used: of models, tools, tokens."""
        self.settings = settings
        self.instance = new_id("inst_")
        self.stats = Stats()
        self._checkpoint = checkpoint
        self._custom = authenticate
        self._policy = Policy(settings.permissions)
        self._registry = ToolRegistry(TOOLS)
        self._registry.load(settings.tools.modules)
        for tool in tools:
            self._registry.add(tool)
        self.models = dict(models) if models is not None else build_models(settings.models)
        self._jwt = JwtVerifier(settings.auth.jwt) if settings.auth.jwt is not None else None
        self._tickets = Tickets(MemoryCache())
        self._door: Door
        self._turns: Turns
        self._recorder: Recorder
        self.app = Starlette(lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        async with self.running():
            yield

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the store, serve, and on the way out drain and close."""
        store = await open_store(self.settings.store.url)
        try:
            self._assemble(store)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in await self._tasks()]
                try:
                    yield
                finally:
                    await self.drain(0)
                    for task in tasks:
                        task.cancel()
            await self._recorder.flush_all()
        finally:
            await self._runner.close()
            for model in self.models.values():
                await model.close()
            if self._jwt is not None:
                await self._jwt.close()
            await store.close()

    async def local_ticket(self) -> str:
        """A ticket that opens the page as the user `local`, once."""
        return await self._tickets.issue(LOCAL, ttl=_LOCAL_TICKET_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Tell every client to go, let turns end for so long, leave the rest to others, and close the sockets."""
        self._door.goaway(retry_after=max(1.0, min(seconds, 10.0)))
        await self._turns.drain(seconds)
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
        self._runner = ToolRunner(limits.max_result_bytes)
        routes = Routes(self._registry, self._runner, self._policy, store)
        services = RunServices(
            store=contexts,
            log=log,
            epochs=self._epochs,
            recorder=self._recorder,
            publisher=self._publisher,
            models=self.models,
            routes=routes,
            stats=stats,
            max_steps=limits.max_steps,
            checkpoint=self._checkpoint,
        )
        self._turns = Turns(services, self.instance, limits.concurrent_turns)
        self._recovery = Recovery(contexts, self._heartbeats, self._epochs, self._turns)
        self._hub = Hub(contexts, log, self._epochs)
        self._wheel = Wheel()
        self._sessions = Sessions(store, self.instance, limits.session_ttl)
        authenticator = Authenticator(ApiKeys(store), self._jwt, self._tickets, settings.local, self._custom)
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
        )
        self._door = Door(self._connections(conversations), authenticator, settings.server.origins)
        self._observe()
        guard = Guard(authenticator)
        served: list[BaseRoute] = [
            WebSocketRoute("/v1/ws", self._door),
            *context_routes(guard, Contexts(contexts, log, self._epochs, self._hub), limits.max_frame_bytes),
            *ops_routes(guard, self._tickets, routes, stats, lambda: self._ready(contexts)),
            *page_routes(self._tickets, authenticator, settings),
        ]
        self.app.router.routes = served

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
        stats.observe("tidegate_live_contexts", "Contexts that somebody follows.", lambda: hub.contexts)
        stats.observe("tidegate_frames_sent", "Frames sent.", lambda: hub.tally.frames)
        stats.observe("tidegate_turns_running", "Turns that run here.", lambda: len(self._turns))
        stats.observe("tidegate_epochs_begun", "Logs begun.", lambda: self._epochs.begun)
        stats.observe(
            "tidegate_reader_lag_events",
            "Events that the slowest reader is behind.",
            lambda: max((reader.feed.head - reader.seq for reader in hub.readers()), default=0),
        )


def create_app(settings: Settings) -> Starlette:
    """The gateway as an ASGI application, for any server that runs its lifespan."""
    return Gateway(settings).app
