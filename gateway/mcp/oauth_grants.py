"""The tokens of a user for a server: kept sealed in the store, refreshed by one instance at a time.

Who refreshes first says so in the store, by compare and swap (`busy_until`): of all instances one succeeds, and the
others wait for what it will store. A cache that may forget could not promise that, and a provider that rotates refresh
tokens takes the second use of one for theft. The new tokens are stored before anybody uses them. An instance that dies
between the provider's answer and the store loses that rotation: after `_LEASE` another tries the old refresh token, and
where the provider refuses it the user has to connect again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Final

import structlog
from mcp.client.auth.utils import union_scopes
from mcp.shared.auth import OAuthToken
from msgspec.structs import replace

from gateway.mcp.oauth_clients import Clients
from gateway.mcp.oauth_records import Grant, grant_name
from gateway.mcp.oauth_settings import ProtectedServer
from gateway.mcp.oauth_tokens import TokenEndpoint, expiry
from gateway.mcp.oauth_wire import NeedsAuthorization, NotNow, ProviderRefused
from gateway.vault import Kept, Vault
from stores.ports import Unavailable

__all__ = ["Grants", "Tokens", "advice"]

_LEASE: Final = 30.0
_REQUEST: Final = 12.0
_RETRY: Final = 5.0
_WAIT: Final = 20.0
_STORE: Final = 60.0
_TRUSTED: Final = 2.0
_JUST: Final = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_log = structlog.stdlib.get_logger(__name__)


def advice(server: str) -> str:
    return f"connect it again among the connections of this gateway (POST /v1/connections/{server})"


class Grants:
    """All grants of this gateway. `clock` is in seconds since 1970: instances must agree on it to within some
    seconds."""

    def __init__(
        self, vault: Vault[Grant], endpoint: TokenEndpoint, clients: Clients, clock: Callable[[], float] = time.time
    ) -> None:
        self.vault = vault
        self.endpoint = endpoint
        self.clients = clients
        self.clock = clock
        self._refreshes: set[asyncio.Task[None]] = set()

    def start(self, refresh: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run it to its end, whoever asked for it: a rotation that was answered must be stored."""
        task = asyncio.create_task(refresh, name="oauth-refresh")
        self._refreshes.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Wait for the refreshes that are under way, each of which has its bound."""
        if self._refreshes:
            await asyncio.wait(self._refreshes)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._refreshes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a_refresh_failed", exc_info=error)


class Tokens:
    """The tokens of one owner for one server. What was read is trusted for two seconds."""

    def __init__(self, grants: Grants, server: ProtectedServer, owner: str) -> None:
        self._grants = grants
        self._server = server
        self._owner = owner
        self._name = grant_name(server.name)
        self._lock = asyncio.Lock()
        self._grant: Grant | None = None
        self._read_at = -_TRUSTED

    async def current(self) -> Grant:
        """A grant whose access token is good. Raises NeedsAuthorization, NotNow."""
        grant = self._grant
        if grant is None or time.monotonic() >= self._read_at + _TRUSTED or grant.is_due(self._grants.clock()):
            return await self._renewed(None)
        return grant

    async def after_refusal(self, access_token: str) -> Grant:
        """A grant with another access token than the one that the server has refused. Raises as `current`."""
        return await self._renewed(access_token)

    async def lacks(self, scope: str | None) -> NeedsAuthorization:
        """The server wants more than was granted: what to tell the user of it."""
        asked = f" (scope: {scope})" if scope else ""
        words = f"the MCP server {self._server.name!r} wants more rights than you gave it{asked}: "
        try:
            for _ in range(3):
                kept = await self._read()
                wanted = union_scopes(kept.value.wanted, scope) if kept.value is not None else None
                if kept.value is None or wanted == kept.value.wanted:
                    break
                if await self._put(kept, replace(kept.value, wanted=wanted)):
                    break
        except Unavailable:
            pass  # it is noted the next time
        return NeedsAuthorization(words + advice(self._server.name))

    async def _renewed(self, refused: str | None) -> Grant:
        try:
            async with asyncio.timeout(_WAIT), self._lock:
                self._grant = None
                self._grant = await self._wait_for_good(refused)
                self._read_at = time.monotonic()
                return self._grant
        except TimeoutError as error:
            raise NotNow(f"the access to {self._server.name!r} could not be renewed in time") from error
        except Unavailable as error:
            raise NotNow(f"the access to {self._server.name!r} can't be looked up now") from error

    async def _wait_for_good(self, refused: str | None) -> Grant:
        pause = _FIRST_PAUSE
        while True:
            kept = await self._read()
            grant, now = self._granted(kept), self._grants.clock()
            usable = grant.access_token != refused and not grant.has_expired(now)
            if usable and not grant.is_due(now):
                return grant
            if grant.access_token == refused and now < grant.obtained_at + _JUST:
                raise NotNow(f"the MCP server {self._server.name!r} refuses the access that was just given")
            if grant.refresh_token is None:
                if usable:
                    return grant
                await self._put(kept, replace(grant, lost="its access is over", access_token=""))
            elif grant.busy_until <= now:
                claimed = await self._claim(kept, grant, now)
                if claimed is not None:
                    # A caller that is cancelled leaves it to its end.
                    await asyncio.shield(self._grants.start(self._refresh(claimed)))
            elif usable:
                return grant
            elif grant.trouble is not None:
                raise NotNow(grant.trouble)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _granted(self, kept: Kept[Grant]) -> Grant:
        grant = kept.value
        server = self._server.name
        if grant is None:
            how = f"connect it among the connections of this gateway (POST /v1/connections/{server})"
            raise NeedsAuthorization(f"the MCP server {server!r} needs your authorization: {how}")
        if grant.lost is not None:
            raise NeedsAuthorization(
                f"the MCP server {server!r} needs your authorization anew ({grant.lost}): {advice(server)}"
            )
        return grant

    async def _read(self) -> Kept[Grant]:
        """What is stored; one without a value where there is nothing, or what is for another server than that of the
        settings, whatever it is called."""
        kept = await self._grants.vault.get(self._owner, self._name)
        grant = kept.value if kept is not None else None
        if grant is not None and not self._server.is_covered_by(grant.provider.resource):
            grant = None
        return Kept(grant, kept.version if kept is not None else 0)

    async def _put(self, kept: Kept[Grant], grant: Grant) -> bool:
        return await self._grants.vault.put(self._owner, self._name, grant, kept.version) is not None

    # ---- the refresh

    async def _claim(self, kept: Kept[Grant], grant: Grant, now: float) -> Kept[Grant] | None:
        """The grant as this instance's to refresh; None where another one was sooner."""
        mine = replace(grant, busy_until=now + _LEASE, trouble=None)
        version = await self._grants.vault.put(self._owner, self._name, mine, kept.version)
        return Kept(mine, version) if version is not None else None

    async def _refresh(self, claimed: Kept[Grant]) -> None:
        """Ends with what came of it in the store."""
        grant = claimed.value
        clock = self._grants.clock
        if grant is None or clock() > grant.busy_until - _REQUEST:
            return  # this process stood still: another may be at it
        try:
            async with asyncio.timeout(_REQUEST):
                token = await self._grants.endpoint.refresh(self._server, grant)
        except ProviderRefused as error:
            _log.info("oauth_grant_lost", server=self._server.name, error=error.code)
            lost = replace(grant, lost=str(error), access_token="", refresh_token=None)
            await self._settle(claimed, lost)
            if error.code in ("invalid_client", "unauthorized_client"):
                await self._grants.clients.forget(self._server.name, grant.provider.issuer)
        except (NotNow, TimeoutError) as error:
            words = str(error) or f"the authorization server of {self._server.name} did not answer in time"
            await self._settle(claimed, replace(grant, trouble=words, busy_until=clock() + _RETRY))
        else:
            await self._save(_rotated(grant, token, clock()))

    async def _settle(self, claimed: Kept[Grant], grant: Grant) -> None:
        try:
            await self._put(claimed, grant)
        except Unavailable as error:
            _log.warning("oauth_failure_not_stored", server=self._server.name, reason=str(error))

    async def _save(self, grant: Grant) -> None:
        """Store what the provider has given, whoever has claimed the refresh in the meantime, unless the grant is
        another one by now, or gone."""
        until, pause = time.monotonic() + _STORE, _FIRST_PAUSE
        vault = self._grants.vault
        while True:
            try:
                kept = await vault.get(self._owner, self._name)
                if kept is None:
                    await self._grants.endpoint.revoke(self._server, grant)
                    return
                there = kept.value
                if there is None or there.id != grant.id or there.rotation >= grant.rotation:
                    return
                if await vault.put(self._owner, self._name, replace(grant, wanted=there.wanted), kept.version):
                    return
            except Unavailable as error:
                if time.monotonic() > until:
                    _log.error("oauth_rotation_not_stored", server=self._server.name, reason=str(error))
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def _rotated(grant: Grant, token: OAuthToken, now: float) -> Grant:
    """What a provider leaves out of its answer stays as it was (RFC 6749, 6)."""
    return replace(
        grant,
        access_token=token.access_token,
        refresh_token=token.refresh_token or grant.refresh_token,
        scope=token.scope if token.scope is not None else grant.scope,
        obtained_at=now,
        expires_at=expiry(token, now),
        rotation=grant.rotation + 1,
        busy_until=0.0,
        trouble=None,
    )
