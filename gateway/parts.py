"""The parts of a running gateway, put together over its stores."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct
from starlette.routing import BaseRoute, WebSocketRoute

from gateway.active_contexts import ActiveContexts
from gateway.assembly import Assembler, Profile
from gateway.auditing import Auditor
from gateway.auth.api_keys import ApiKeys
from gateway.auth.authenticator import Authenticator
from gateway.auth.host import Authenticate, HostScheme
from gateway.auth.jwt import JwtVerifier
from gateway.auth.tickets import Tickets
from gateway.budget_settings import budget_of
from gateway.budgets import Budgets
from gateway.connection import Services
from gateway.consent import Consent
from gateway.contexts import Contexts
from gateway.conversations import Conversations
from gateway.core.deadlines import Waits
from gateway.core.policy import Policy
from gateway.declared_tools import DeclaredTools
from gateway.door import Door
from gateway.epochs import Epochs
from gateway.erasure import Erasure
from gateway.export import Exports
from gateway.hearing import hearing
from gateway.http.answers import answer_routes
from gateway.http.audit import audit_routes
from gateway.http.connections import connection_routes
from gateway.http.contexts import context_routes
from gateway.http.messages import message_routes
from gateway.http.ops import ops_routes
from gateway.http.page import page_routes
from gateway.http.personal import personal_routes
from gateway.http.prompts import prompt_routes
from gateway.http.replies import Guard
from gateway.http.resources import resource_routes
from gateway.http.search import search_routes
from gateway.http.stream import stream_routes
from gateway.http.streams import Streams
from gateway.http.usage import usage_routes
from gateway.hub import Hub
from gateway.in_process import InProcess
from gateway.mcp.build import build_host
from gateway.mcp.oauth_setup import build_oauth
from gateway.mcp.settings import McpServerSettings
from gateway.mcp_endpoint.calls import AwaitedCalls
from gateway.mcp_endpoint.endpoint import Offered, endpoint_routes
from gateway.metering import Meter, price_of
from gateway.metrics import Stats, timed
from gateway.models.port import ModelClient
from gateway.prompts import Prompts, PromptSource
from gateway.publisher import Publisher
from gateway.recorder import Recorder
from gateway.recovery import HEARTBEAT_TTL, Recovery
from gateway.resource_reading import ResourceReading
from gateway.resources.port import ResourceProvider
from gateway.resources.reader import ReaderLimits, ResourceReader
from gateway.resources.tools import ResourceTools
from gateway.routing import Routes
from gateway.run_services import Checkpoint, RunServices
from gateway.sessions import ERASED, Sessions
from gateway.settings import Settings
from gateway.throttle import Connections, Throttle
from gateway.tool_limits import ToolLimits
from gateway.tools.catalog import Catalog
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from gateway.turn_places import TurnPlaces
from gateway.turns import Turns
from gateway.upkeep import Upkeep, UpkeepOptions
from gateway.wheel import Wheel
from protocol.frames import Limits
from stores.connect import Store
from stores.hot import Hot
from stores.ports import ContextStore, EventLog, StoreError, Unavailable

if TYPE_CHECKING:
    from gateway.mcp.host import McpHost

__all__ = ["Given", "Parts"]

_log = structlog.get_logger(__name__)
_SWEEP_SECONDS = 3600.0
_CHECK_SECONDS = 2.0


class Given(Struct, frozen=True, kw_only=True):
    """What a gateway has besides its stores. `local` says whether a ticket may stand for the user `local`."""

    settings: Settings
    instance: str
    models: Mapping[str, ModelClient]
    profiles: Mapping[str, Profile]
    registry: ToolRegistry
    runner: ToolRunner
    policy: Policy
    jwt: JwtVerifier | None
    authenticate: Authenticate | None
    local: bool
    stats: Stats
    checkpoint: Checkpoint
    resources: Sequence[ResourceProvider] = ()
    mcp: Mapping[str, McpServerSettings] = MappingProxyType({})


class Parts:
    """One life of a gateway: what serves it while its `tasks` run. `routes` are those of its application."""

    def __init__(self, given: Given, store: Store, hot: Hot) -> None:
        settings, limits, stats = given.settings, given.settings.limits, given.stats
        self._given = given
        self._hot = hot
        self._draining = False
        self._contexts: ContextStore = timed(store, stats.store_seconds)
        self._event_log: EventLog = timed(hot.log, stats.log_seconds)
        contexts, log = self._contexts, self._event_log
        self.tickets = Tickets(hot.tickets)
        self.recorder = Recorder(contexts, log)
        self._publisher = Publisher(log, settings.log.flush_ms / 1000)
        self._epochs = Epochs(contexts, log, self.recorder.note)
        declared = DeclaredTools(store, hot.cache)
        server = settings.server
        self._oauth = build_oauth(
            given.mcp, settings.encryption, (server.public_url, server.host, server.port), store, hot
        )
        self._mcp = build_host(given.mcp, self._oauth.auth if self._oauth is not None else None)
        if self._mcp is not None and self._oauth is not None:
            # Whoever connects another account goes on in no session of the one before.
            self._oauth.listen(self._mcp.forget)
        self._resources = ResourceReader(
            [*given.resources, *self._mcp_resources()],
            given.policy.may_use,
            ReaderLimits(max_bytes=limits.max_resource_bytes, cache_bytes=limits.resource_cache_bytes),
        )
        self._prompts = Prompts(given.policy, self._mcp_prompts(), limits.max_frame_bytes)
        servers = [self._mcp] if self._mcp is not None else []
        catalog = Catalog(given.registry, [ResourceTools(self._resources), *servers])
        self._auditor = Auditor(store, parameters=settings.audit.parameters, keep_days=settings.audit.keep_days)
        self._tool_limits = ToolLimits(settings.tools.limits, hot.limits, hot.leases)
        self._routes = Routes(
            catalog, given.runner, given.policy, declared, Consent(settings.approvals, contexts), self._tool_limits
        )
        self._budgets = Budgets([budget_of(name, spec) for name, spec in settings.budgets.items()], store)
        self._active = ActiveContexts(contexts, settings.context.active_bytes, hot.threads)
        self._turns = self._make_turns(store)
        self._recovery = Recovery(contexts, hot.heartbeats, self._epochs, self._turns)
        self._hub = Hub(contexts, log, self._epochs)
        self._wheel = Wheel()
        self._sessions = Sessions(
            store,
            given.instance,
            limits.session_ttl,
            bus=hot.bus,
            cache=hot.cache,
            heartbeats=hot.heartbeats,
            tools=declared,
        )
        origins = settings.server.origins
        host = HostScheme(given.authenticate, origins) if given.authenticate is not None else None
        authenticator = Authenticator(ApiKeys(store), given.jwt, self.tickets, given.local, host)
        self._throttle = Throttle(hot.limits, limits.messages_per_minute)
        conversations = Conversations(
            store=contexts,
            epochs=self._epochs,
            turns=self._turns,
            routes=self._routes,
            models=given.models,
            default_model=next(iter(given.models)),
            policy=given.policy,
            throttle=self._throttle,
            queue_length=limits.queue_length,
            budgets=self._budgets,
            prompts=self._prompts,
            resources=self._resources,
            auditor=self._auditor,
        )
        connections = self._connections(conversations)
        self._door = Door(connections, authenticator, origins)
        self._streams = Streams(self._hub, connections.sockets, self._wheel, limits.heartbeat)
        self._managed = Contexts(contexts, log, self._epochs, self._hub, self._active, hot.bus)
        self.clients = InProcess(self._door)
        self._observe()
        self.routes = self._make_routes(store, authenticator, conversations)

    def _mcp_prompts(self) -> Sequence[PromptSource]:
        if self._mcp is None:
            return ()
        from gateway.mcp.prompts import McpPrompts

        return [McpPrompts(self._mcp, self._given.policy.may_use)]

    def _mcp_resources(self) -> Sequence[ResourceProvider]:
        if self._mcp is None:
            return ()
        from gateway.resources.mcp import mcp_providers

        return mcp_providers(self._mcp)

    def _make_turns(self, store: Store) -> Turns:
        given, settings = self._given, self._given.settings
        assembler = Assembler(self._active, given.models, self._routes, given.profiles, self._budgets)
        prices = {name: price_of(spec) for name, spec in settings.models.items()}
        meter = Meter(prices, given.stats, store, self._budgets)
        made = settings.context
        options = UpkeepOptions(titles=made.titles, title_model=made.title_model, summary_model=made.summary_model)
        self._upkeep = Upkeep(self._contexts, self._epochs, self._active, assembler, given.models, meter, options)
        services = RunServices(
            store=self._contexts,
            log=self._event_log,
            epochs=self._epochs,
            recorder=self.recorder,
            publisher=self._publisher,
            models=given.models,
            routes=self._routes,
            assembler=assembler,
            stats=given.stats,
            max_steps=settings.limits.max_steps,
            checkpoint=given.checkpoint,
            turn_over=self._upkeep.turn_over,
            meter=meter,
            auditor=self._auditor,
            waits=Waits(client=settings.limits.client_tool_seconds, approval=settings.limits.approval_seconds),
        )
        return Turns(services, given.instance, settings.limits.concurrent_turns, self._hot.bus)

    def _connections(self, conversations: Conversations) -> Services:
        given, limits = self._given, self._given.settings.limits
        return Services(
            conversations=conversations,
            hub=self._hub,
            sessions=self._sessions,
            sockets=Connections(limits.connections_per_principal),
            wheel=self._wheel,
            stats=given.stats,
            limits=Limits(
                max_frame_bytes=limits.max_frame_bytes,
                max_unacked=limits.max_unacked,
                messages_per_minute=limits.messages_per_minute,
            ),
            # Everything that is no message is cheap: ten times as much of it is still no flood.
            frames_per_minute=max(6000, 10 * limits.messages_per_minute),
            heartbeat=limits.heartbeat,
            hello_seconds=limits.hello_seconds,
            models=tuple(given.models),
            default_model=next(iter(given.models)),
            instance=given.instance,
            version=version("tidegate"),
        )

    def _make_routes(self, store: Store, authenticator: Authenticator, conversations: Conversations) -> list[BaseRoute]:
        given, streams, managed = self._given, self._streams, self._managed
        guard, most = Guard(authenticator), given.settings.limits.max_frame_bytes
        places = TurnPlaces(self._contexts, self._event_log, self._epochs)
        erasure = Erasure(managed, self._sessions, store, self._mcp.forget_owner if self._mcp is not None else None)
        calls = AwaitedCalls(conversations, streams, places)
        reading = ResourceReading(self._resources, self._throttle, self._auditor)
        offered = Offered(self._routes, calls, reading, self._prompts, self._throttle)
        over_mcp, self._endpoint = endpoint_routes(authenticator, given.settings.server.origins, offered)
        return [
            WebSocketRoute("/v1/ws", self._door),
            *context_routes(guard, managed, most),
            *stream_routes(guard, streams, managed),
            *message_routes(guard, streams, conversations, places, most),
            *answer_routes(guard, conversations, most),
            *search_routes(guard, store),
            *usage_routes(guard, given.policy, store, self._budgets),
            *audit_routes(guard, given.policy, store),
            *personal_routes(guard, managed, erasure, Exports(store)),
            *prompt_routes(guard, self._prompts),
            *resource_routes(guard, reading),
            *ops_routes(guard, self.tickets, self._routes, given.stats, self._not_ready),
            *over_mcp,
            *connection_routes(guard, authenticator, self._oauth),
            *page_routes(self.tickets, authenticator, given.settings),
        ]

    # ---- the life

    async def tasks(self) -> list[Coroutine[None, None, None]]:
        """What must run all the while."""
        try:
            # Nobody may judge this instance dead before its first beat.
            await self._hot.heartbeats.beat(self._given.instance, HEARTBEAT_TTL)
        except Unavailable as error:
            _log.warning("the first heartbeat was not taken", reason=str(error))
        return [
            *(run() for run in self._hot.tasks),
            *([self._endpoint.run()] if self._endpoint is not None else []),
            self.recorder.run(),
            self._publisher.run(),
            self._wheel.run(),
            self._hub.run(),
            self._turns.run(),
            self._upkeep.run(),
            self.clients.run(),
            self._sessions.run(),
            self._resources.run(),
            *([self._mcp.run(), self._forget_erased(self._mcp)] if self._mcp is not None else []),
            *([self._oauth.run()] if self._oauth is not None else []),
            self._managed.run(),
            self._recovery.beat(),
            self._recovery.run(),
            self._sweep(),
        ]

    async def drain(self, seconds: float) -> None:
        """Tell every client to go, let turns end for so long, leave the rest to others, and close the sockets. Once."""
        if self._draining:
            return
        self._draining = True
        self._door.goaway(retry_after=max(1.0, min(seconds, 10.0)))
        self._streams.goaway()
        await self._turns.drain(seconds)
        await self._recovery.retire()
        await self._streams.close(2.0)
        await self._door.close(1012, 2.0)

    async def finish(self) -> None:
        """Leave nothing unsaid that others would have to find out. Called when the tasks have ended."""
        if self._oauth is not None:
            await self._oauth.close()
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self.recorder.flush_all()
                await self._sessions.flush()
                await self._tool_limits.close()
        except TimeoutError:
            _log.warning("the stores took too long at the end; other instances do what is left")

    async def _forget_erased(self, host: McpHost) -> None:
        """Whoever is erased by another instance has no connection here either."""
        async with hearing(self._hot.bus, {ERASED: lambda owner: host.forget_owner(owner.decode())}):
            await asyncio.Event().wait()

    async def _sweep(self) -> None:
        while True:
            try:
                await self._sessions.sweep()
                await self._auditor.sweep()
            except Unavailable as error:
                _log.warning("what has expired was not deleted", reason=str(error))
            except Exception:  # noqa: BLE001 - it is tried again, and nothing else needs it
                _log.exception("what has expired could not be deleted")
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        for what, check in (("the store", self._contexts.check), ("the log", self._event_log.check)):
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await check()
            except (StoreError, TimeoutError):
                return f"{what} is away"
        return None

    def _observe(self) -> None:
        stats, hub = self._given.stats, self._hub
        stats.observe("tidegate_sessions", "Sessions with a socket.", lambda: len(self._sessions))
        stats.observe("tidegate_streams", "Responses that follow a context.", lambda: len(self._streams))
        stats.observe("tidegate_live_contexts", "Contexts that somebody follows.", lambda: hub.contexts)
        stats.observe("tidegate_frames_sent", "Frames sent.", lambda: hub.tally.frames)
        stats.observe("tidegate_turns_running", "Turns that run here.", lambda: len(self._turns))
        stats.observe("tidegate_epochs_begun", "Logs begun.", lambda: self._epochs.begun)
        stats.observe("tidegate_gaps_filled", "Times that publications were missed and read instead.", lambda: hub.gaps)
        stats.observe(
            "tidegate_reader_lag_events",
            "Events that the slowest reader is behind.",
            lambda: max((reader.feed.head - reader.seq for reader in hub.readers()), default=0),
        )
        if (mcp := self._mcp) is not None:
            stats.observe(
                "tidegate_mcp_connections",
                "Connections to MCP servers that can be used.",
                lambda: sum(server.ready for server in mcp.status()),
            )
            stats.observe(
                "tidegate_mcp_requests",
                "Requests to MCP servers that wait for their answers.",
                lambda: sum(server.calls for server in mcp.status()),
            )
            stats.observe(
                "tidegate_mcp_servers_in_trouble",
                "MCP servers that failed, and to which whoever it was has had no connection since.",
                lambda: sum(server.trouble is not None for server in mcp.status()),
            )
