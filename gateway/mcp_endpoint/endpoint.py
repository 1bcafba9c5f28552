"""The ASGI side of `/mcp`: who asks, and a server of the SDK that is made when the first one does."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, cast

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import Authenticator
from gateway.auth.origin import origin_allowed
from gateway.auth.principal import Principal
from gateway.conversations import refusal
from gateway.http.replies import refuse
from gateway.mcp.oauth_settings import is_loopback
from gateway.mcp_endpoint.calls import AwaitedCalls
from gateway.prompts import Prompts
from gateway.resource_reading import ResourceReading
from gateway.routing import Routes
from gateway.throttle import Throttle
from protocol.errors import ProtocolError
from stores.ports import StoreError

_log = structlog.stdlib.get_logger(__name__)

__all__ = ["PRINCIPAL", "Endpoint", "Offered", "endpoint_routes"]

PRINCIPAL = "tidegate.principal"
"""Where the scope of a request tells the server whose it is."""

_START_SECONDS = 30.0


class Offered(NamedTuple):
    """What a gateway has for a client of MCP."""

    routes: Routes
    calls: AwaitedCalls
    reading: ResourceReading
    prompts: Prompts
    throttle: Throttle


class Manager(Protocol):
    """The part of the SDK's session manager that is used here."""

    def run(self) -> Any: ...

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Endpoint:
    """Serves MCP while `run` runs. The SDK takes most of a second to import, so that waits for who needs it."""

    def __init__(self, authenticator: Authenticator, origins: tuple[str, ...], make: Callable[[], Manager]) -> None:
        self._authenticator = authenticator
        self._origins = origins
        self._make = make
        self._wanted = asyncio.Event()
        self._serving = asyncio.Event()
        self._manager: Manager

    async def run(self) -> None:
        """Own the server until cancelled. One that fails is made again for whoever comes next."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._serve()
            # The boundary to the SDK: what goes wrong in it must not end the gateway.
            except Exception:  # noqa: BLE001
                _log.exception("mcp_endpoint_failed")

    async def _serve(self) -> None:
        self._manager = await asyncio.to_thread(self._make)
        async with self._manager.run():
            self._serving.set()
            try:
                await asyncio.Event().wait()
            finally:
                self._serving.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            principal = await self._who(Request(scope))
            manager = await self._ready()
        except (ProtocolError, StoreError) as error:
            await refuse(refusal(error))(scope, receive, send)
            return
        # Blanks around a header's value are none of it (RFC 9110, 5.5), which not every HTTP server sees to.
        headers = [(key, value.strip(b" \t")) for key, value in scope["headers"]]
        await manager.handle_request({**scope, "headers": headers, PRINCIPAL: principal}, receive, send)

    async def _who(self, request: Request) -> Principal:
        headers = request.headers
        # A page that is not ours must not make a browser on this network speak to us.
        if not origin_allowed(headers.get("origin"), headers.get("host", ""), request.url.scheme, self._origins):
            raise ProtocolError("forbidden", "this origin is not allowed", path="headers.origin")
        # Nor one whose own name was made to lead here: Origin and Host agree then (DNS rebinding).
        if "origin" in headers and not self._origins and not is_loopback(headers["origin"]):
            raise ProtocolError("forbidden", "this origin is not one of server.origins", path="headers.origin")
        principal = await self._authenticator.from_connection(request)
        if principal is None:
            raise ProtocolError("unauthenticated", "show an API key or a token in a header")
        return principal

    async def _ready(self) -> Manager:
        self._wanted.set()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._serving.wait()
        except TimeoutError:
            raise ProtocolError("unavailable", "the gateway is starting or stopping", retry_after=1) from None
        return self._manager


def endpoint_routes(
    authenticator: Authenticator, origins: tuple[str, ...], offered: Offered
) -> tuple[list[BaseRoute], Endpoint | None]:
    """The route of `/mcp`, and what has to run for it. Without the SDK the route says what is missing."""
    if find_spec("mcp") is None:
        return [Route("/mcp", _missing, methods=["GET", "POST", "DELETE"])], None

    def make() -> Manager:
        server = importlib.import_module("gateway.mcp_endpoint.server")
        return cast("Manager", server.make_manager(offered))

    endpoint = Endpoint(authenticator, origins, make)
    # Without sessions there is nothing to end, nor anything to tell on a stream that would stay open for ever.
    return [Route("/mcp", endpoint, methods=["POST"])], endpoint


async def _missing(request: Request) -> Response:
    return refuse(ProtocolError("not_found", "/mcp needs the extra 'mcp': pip install 'tidegate[mcp]'"))
