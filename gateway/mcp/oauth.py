"""OAuth of remote MCP servers, as one part of the gateway: who is connected, and how requests are authenticated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.encryption import Encryption
from gateway.hearing import hearing
from gateway.mcp.oauth_auth import BearerAuth
from gateway.mcp.oauth_clients import Clients, client_metadata
from gateway.mcp.oauth_discovery import Discovery
from gateway.mcp.oauth_flow import Flows
from gateway.mcp.oauth_grants import Grants, Tokens
from gateway.mcp.oauth_records import Begun, ConnectionState, Finished, FlowRefused, Grant, Registration, grant_name
from gateway.mcp.oauth_settings import CALLBACK, CLIENT_DOCUMENT, ProtectedServer
from gateway.mcp.oauth_tokens import TokenEndpoint
from gateway.mcp.oauth_wire import NotNow, ProviderRefused, Wire
from gateway.vault import Vault
from protocol.errors import ProtocolError
from protocol.ids import new_id
from stores.ports import Bus, Cache, RateLimits, SecretStore, Unavailable

__all__ = ["OAuth"]

_CHANNEL: Final = "mcp-connections"
_PER_MINUTE: Final = 10
_log = structlog.stdlib.get_logger(__name__)


class _Change(Struct, frozen=True):
    by: str
    server: str
    owner: str


class OAuth:
    """`servers` by name; `cache` is one that nothing else crowds. `clock` is in seconds since 1970."""

    def __init__(
        self,
        servers: Sequence[ProtectedServer],
        redirect_uri: str,
        encryption: Encryption,
        store: SecretStore,
        cache: Cache,
        bus: Bus,
        limits: RateLimits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError where there are no keys to encrypt with."""
        self.servers: Mapping[str, ProtectedServer] = {server.name: server for server in servers}
        self.redirect_uri = redirect_uri
        self._bus = bus
        self._limits = limits
        self._clock = clock
        self._instance = new_id("oauth_")
        self._listeners: list[Callable[[str, str], None]] = []
        self._wire = Wire()
        self._discovery = Discovery(self._wire)
        registrations = Vault(store, encryption.sealer("oauth/clients"), Registration)
        clients = Clients(self._wire, registrations, redirect_uri, clock)
        vault = Vault(store, encryption.sealer("oauth/grants"), Grant)
        self._grants = Grants(vault, TokenEndpoint(self._wire, redirect_uri), clients, clock)
        sealer = encryption.sealer("oauth/flows")
        self._flows = Flows(self.servers, cache, sealer, self._discovery, clients, self._grants, redirect_uri, clock)

    def auth(self, server: str, owner: str) -> BearerAuth | None:
        """What authenticates the requests of one connection of the owner's; None for a server that wants no
        authorization. It is no one else's, and no other connection's."""
        found = self.servers.get(server)
        return BearerAuth(found, Tokens(self._grants, found, owner)) if found is not None else None

    def listen(self, listener: Callable[[str, str], None]) -> None:
        """`listener` is told the server and owner whose connection was made, renewed by its user or ended, on whatever
        instance: what goes on with the one before must not."""
        self._listeners.append(listener)

    async def connections(self, principal: Principal) -> list[ConnectionState]:
        """Raises Unavailable."""
        kept = await self._grants.vault.all(principal.owner)
        return [self._state(server, kept.get(grant_name(name))) for name, server in self.servers.items()]

    async def begin(self, principal: Principal, name: str) -> Begun:
        """Raises ProtocolError, Unavailable."""
        server = self._server(name)
        await self._count(principal)
        try:
            return await self._flows.begin(principal, server)
        except NotNow as error:
            raise ProtocolError("unavailable", str(error)) from error
        except ProviderRefused as error:
            raise ProtocolError("provider_error", str(error)) from error

    async def finish(
        self, parameters: Sequence[tuple[str, str]], cookies: Mapping[str, str], who: Principal | None
    ) -> Finished:
        """What comes of a browser's return with these query parameters; `who` is whom the host knows in it. Raises
        FlowRefused."""
        try:
            flow, finished = await self._flows.finish(parameters, cookies, who)
        except NotNow as error:
            raise FlowRefused(f"It did not work: {error}. Begin again.", again=True) from error
        except Unavailable as error:
            raise FlowRefused("It can't be finished now. Begin again.", again=True) from error
        if finished.code is None:
            await self._changed(flow.server, flow.owner)
        return finished

    async def confirm(self, principal: Principal, name: str, code: str) -> None:
        """Connect what the user was shown this code for. Raises ProtocolError, Unavailable."""
        server = self._server(name)
        await self._count(principal)
        try:
            connected = await self._flows.confirm(principal, server, code)
        except NotNow as error:
            raise ProtocolError("unavailable", str(error)) from error
        if not connected:
            raise ProtocolError("not_found", "this code is wrong, used or too old", path="code")
        await self._changed(name, principal.owner)

    async def disconnect(self, principal: Principal, name: str) -> bool:
        """Forget the user's tokens, then tell the authorization server; whether it has revoked them. Raises
        ProtocolError, Unavailable."""
        server, vault = self._server(name), self._grants.vault
        kept = await vault.get(principal.owner, grant_name(name))
        if kept is None:
            return False
        await vault.delete(principal.owner, grant_name(name))
        await self._changed(name, principal.owner)
        grant = kept.value
        return grant is not None and await self._grants.endpoint.revoke(server, grant)

    def client_document(self) -> dict[str, Any]:
        """What the gateway says about itself where authorization servers look it up by a URL, its client id."""
        own = self.redirect_uri.removesuffix(CALLBACK) + CLIENT_DOCUMENT
        return {"client_id": own, **client_metadata(self.redirect_uri).model_dump(mode="json", exclude_none=True)}

    async def run(self) -> None:
        """Hear what happens on other instances. Ends by being cancelled."""
        async with hearing(self._bus, {_CHANNEL: self._heard}):
            await asyncio.Event().wait()

    async def close(self) -> None:
        await self._grants.close()
        await self._wire.close()

    def _server(self, name: str) -> ProtectedServer:
        server = self.servers.get(name)
        if server is None:
            raise ProtocolError(
                "not_found", f"there is no server {name!r} that needs your authorization", path="server"
            )
        return server

    async def _count(self, principal: Principal) -> None:
        wait = await self._limits.take(f"oauth:{principal.owner}", 1, _PER_MINUTE / 60, _PER_MINUTE)
        if wait:
            raise ProtocolError("rate_limited", f"{_PER_MINUTE} a minute", retry_after=wait)

    def _state(self, server: ProtectedServer, grant: Grant | None) -> ConnectionState:
        if grant is None or not server.is_covered_by(grant.provider.resource):
            return ConnectionState(name=server.name)
        granted = (grant.scope or "").split()
        ends = grant.expires_at if grant.refresh_token is None else None
        over = ends is not None and ends <= self._clock()
        return ConnectionState(
            name=server.name,
            connected=grant.lost is None and not over,
            scopes=granted,
            missing=[scope for scope in (grant.wanted or "").split() if scope not in granted],
            expires_at=ends,
            problem=grant.lost or ("its access is over" if over else None),
        )

    async def _changed(self, server: str, owner: str) -> None:
        self._tell(server, owner)
        try:
            await self._bus.publish(_CHANNEL, msgspec.json.encode(_Change(self._instance, server, owner)))
        except Unavailable as error:
            _log.warning("other_instances_not_told_of_a_connection", server=server, reason=str(error))

    def _heard(self, payload: bytes) -> None:
        change = msgspec.json.decode(payload, type=_Change)
        if change.by != self._instance:
            self._tell(change.server, change.owner)

    def _tell(self, server: str, owner: str) -> None:
        for listener in self._listeners:
            listener(server, owner)
