"""Puts the gateway together from its settings: the one place that names concrete adapters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from enum import Enum
from importlib.metadata import version
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import LOCAL
from gateway.auth.host import Authenticate
from gateway.auth.jwt import JwtVerifier
from gateway.auth.principal import Principal
from gateway.client import Client, open_client
from gateway.client_core import Options
from gateway.client_link import Tokens
from gateway.client_port import Channel
from gateway.http.closed import Closed
from gateway.logs import route_logs
from gateway.mcp.build import check_extra
from gateway.mcp.oauth_setup import protected_servers
from gateway.mcp.servers_file import configured_servers
from gateway.metrics import Stats
from gateway.models.port import ModelClient
from gateway.models.registry import build_models
from gateway.parts import Given, Parts
from gateway.profiles import profile_of
from gateway.resources.providers import build_providers
from gateway.run_services import Checkpoint, no_checkpoint
from gateway.settings import Settings
from gateway.tools.builtin import TOOLS
from gateway.tools.native import as_tool
from gateway.tools.port import Tool
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from protocol.frames import ClientInfo
from protocol.ids import new_id
from stores.connect import open_hot, open_store
from stores.memory import MemoryCache

__all__ = ["Gateway", "create_app"]

_log = structlog.get_logger(__name__)
_LOCAL_TICKET_SECONDS = 24 * 3600.0


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
        self._policy = settings.policy
        self._registry = ToolRegistry(TOOLS)
        self._registry.load(settings.tools.modules)
        for tool in tools:
            self._registry.add(as_tool(tool))
        self._mcp = configured_servers(settings.mcp, settings.tools.mcp_servers)
        check_extra(self._mcp)
        server = settings.server
        protected_servers(self._mcp, settings.encryption, (server.public_url, server.host, server.port))
        self._given_models = models
        self._local = False
        self._phase = _Phase.IDLE
        self._worn = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parts: Parts
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
        self._runner = ToolRunner(settings.limits.max_result_bytes, question_seconds=settings.limits.question_seconds)
        self._resources = build_providers(settings.resources)

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
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._close)
                log = self.settings.log
                redis = self.settings.redis
                hot = open_hot(redis.url, prefix=redis.prefix, max_bytes=log.max_bytes, ttl=log.ttl)
                stack.push_async_callback(hot.close)
                stores = self.settings.store
                store = await open_store(stores.urls, connections=stores.connections)
                stack.push_async_callback(store.close)
                self._parts = parts = Parts(self._given(), store, hot)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(work) for work in await parts.tasks()]
                    # Not before the tasks have begun: the first client needs them.
                    await asyncio.sleep(0)
                    self._phase = _Phase.RUNNING
                    self.app.router.routes = parts.routes
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
                await parts.finish()
        finally:
            self.app.router.routes = self._closed
            self._phase = _Phase.IDLE
        if failure is not None:
            raise failure

    def _given(self) -> Given:
        specs = self.settings.models if self._given_models is None else {}
        return Given(
            settings=self.settings,
            instance=self.instance,
            models=self.models,
            profiles={name: profile_of(spec) for name, spec in specs.items()},
            registry=self._registry,
            runner=self._runner,
            policy=self._policy,
            jwt=self._jwt,
            authenticate=self._authenticate,
            local=self._local,
            stats=self.stats,
            checkpoint=self._checkpoint,
            resources=self._resources,
            mcp=self._mcp,
        )

    async def _close(self) -> None:
        await self._runner.close()
        for model in self.models.values():
            await model.close()
        if self._jwt is not None:
            await self._jwt.close()

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
            return self._parts.clients.open(principal)

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
        return await self._parts.tickets.issue(LOCAL, ttl=_LOCAL_TICKET_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Tell every client to go, let turns end for so long, leave the rest to others, and close the sockets."""
        if self._phase is _Phase.RUNNING:
            await self._parts.drain(seconds)


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
