"""How a user authorizes the gateway at a server's authorization server: OAuth 2.1's code flow with PKCE.

The provider sends the user's browser back without credentials of ours, to whatever instance. What its call is worth:

- `state` is good once, for ten minutes, and stands for one user, server, authorization server and code verifier. It is
  kept sealed, under its hash. Whose state comes back, to that user's account the authorization goes: nobody can bring
  an account of his own into somebody else's without the other's state.
- The other way round somebody could begin an authorization, and have another person's browser finish it, so that he
  gets that person's account. So the browser must be known: by the secret cookie that it got when it began (`POST
  /v1/connections/{server}`, with the user's credentials), or by the host's sign-in. A browser that is neither, as
  when a terminal began, is shown a code, and nothing is connected before the user has entered that where it began. A
  browser in which the host knows another user is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

import msgspec
import structlog
from mcp.client.auth import OAuthFlowError, PKCEParameters
from mcp.client.auth.utils import union_scopes, validate_authorization_response_iss
from mcp.shared.auth import OAuthMetadata, OAuthToken
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.encryption import EncryptionError, Sealer
from gateway.mcp.oauth_clients import Clients
from gateway.mcp.oauth_discovery import Discovery, Found
from gateway.mcp.oauth_grants import Grants
from gateway.mcp.oauth_records import FLOW_SECONDS, Begun, Finished, Flow, FlowRefused, Grant, flow_id, grant_name
from gateway.mcp.oauth_settings import ProtectedServer
from gateway.mcp.oauth_tokens import expiry
from gateway.mcp.oauth_wire import NotNow, ProviderRefused
from protocol.ids import new_id
from stores.ports import Cache

__all__ = ["Flows"]

_MAX_PARAMETER: Final = 4096
_PARAMETERS: Final = ("state", "code", "iss", "error")
# No vowels and nothing that looks like something else: 28^8 codes, of which one is right for ten minutes.
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ23456789"
_CODE_LENGTH: Final = 8
_ATTEMPTS: Final = 10
_log = structlog.stdlib.get_logger(__name__)


class _Pending(Struct, frozen=True):
    grant: Grant
    server: str
    expires_at: float


class Flows:
    """Over the cache of all instances. All methods may raise Unavailable."""

    def __init__(
        self,
        servers: Mapping[str, ProtectedServer],
        cache: Cache,
        sealer: Sealer,
        discovery: Discovery,
        clients: Clients,
        grants: Grants,
        redirect_uri: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._cache = cache
        self._sealer = sealer
        self._discovery = discovery
        self._clients = clients
        self._grants = grants
        self._redirect_uri = redirect_uri
        self._clock = clock

    async def begin(self, principal: Principal, server: ProtectedServer) -> Begun:
        """Raises NotNow, ProviderRefused."""
        kept = await self._grants.vault.get(principal.owner, grant_name(server.name))
        # Who connects again may have to, because the server has moved to another authorization server (SEP-2352).
        found = await self._discovery.find(server, anew=kept is not None)
        client = await self._clients.client(server, found)
        scope = await self._scope(principal.owner, server, found)
        pkce, state, secret = PKCEParameters.generate(), secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        flow = Flow(
            owner=principal.owner,
            subject=principal.subject,
            server=server.name,
            provider=found.provider,
            metadata=found.metadata.model_dump_json(exclude_none=True),
            client=client,
            verifier=pkce.code_verifier,
            scope=scope,
            browser=_hash(secret),
            expires_at=self._clock() + FLOW_SECONDS,
        )
        key = f"oauth-flow:{_hash(state)}"
        if not await self._cache.add(key, self._sealer.seal("", key, msgspec.json.encode(flow)), FLOW_SECONDS):
            raise NotNow("no authorization can be begun now")
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": self._redirect_uri,
            "state": state,
            "code_challenge": pkce.code_challenge,
            "code_challenge_method": "S256",
            "resource": flow.provider.resource,
            **({"scope": scope} if scope else {}),
            # OpenID Connect Core, 11: a refresh token wants the user's consent each time.
            **({"prompt": "consent"} if scope and "offline_access" in scope.split() else {}),
        }
        endpoint = flow.provider.authorization_endpoint
        return Begun(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", self._cookie(state), secret)

    async def finish(
        self, parameters: Sequence[tuple[str, str]], cookies: Mapping[str, str], who: Principal | None
    ) -> tuple[Flow, Finished]:
        """What comes of a browser's return with these query parameters; `who` is whom the host knows in it. Raises
        FlowRefused, NotNow."""
        told = _single(parameters)
        flow = await self._take_flow(told.get("state", ""))
        if who is not None and who.owner != flow.owner:
            raise FlowRefused("This was begun by another user than the one who is signed in here.")
        grant = await self._exchange(flow, told)
        secret = cookies.get(self._cookie(told["state"]), "")
        if who is not None or hmac.compare_digest(_hash(secret), flow.browser):
            await self._connect(flow.owner, flow.server, grant)
            return flow, Finished(flow.server, flow.subject, None)
        code = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH))
        key = _pending_key(flow.owner, flow.server, code)
        pending = msgspec.json.encode(_Pending(grant, flow.server, flow.expires_at))
        left = max(1.0, flow.expires_at - self._clock())
        if not await self._cache.add(key, self._sealer.seal(flow.owner, key, pending), left):
            raise NotNow("no authorization can be finished now")
        return flow, Finished(flow.server, flow.subject, f"{code[:4]}-{code[4:]}")

    async def confirm(self, principal: Principal, server: ProtectedServer, code: str) -> bool:
        """Connect what the user saw the code for; False where there is no such thing (any more)."""
        letters = "".join(letter for letter in code[:64].upper() if letter in _LETTERS)
        key = _pending_key(principal.owner, server.name, letters)
        sealed = await self._cache.take(key)
        if sealed is None:
            return False
        try:
            pending = msgspec.json.decode(self._sealer.open(principal.owner, key, sealed), type=_Pending)
        except (EncryptionError, msgspec.MsgspecError):
            return False
        if pending.expires_at <= self._clock() or not server.is_covered_by(pending.grant.provider.resource):
            return False
        await self._connect(principal.owner, server.name, pending.grant)
        return True

    def _cookie(self, state: str) -> str:
        """The name of the cookie that a flow's browser holds. `__Host-` keeps neighbours of our domain from setting it
        (RFC 6265bis, 4.1.3.2)."""
        prefix = "__Host-" if self._redirect_uri.startswith("https:") else ""
        return f"{prefix}tidegate-oauth-{flow_id(state)}"

    async def _scope(self, owner: str, server: ProtectedServer, found: Found) -> str | None:
        """What is asked for; where the server has asked for more than was granted, both."""
        configured = server.settings.scopes
        scope = found.scope if configured is None else " ".join(configured) or None
        kept = await self._grants.vault.get(owner, grant_name(server.name))
        if kept is None or kept.value is None or kept.value.wanted is None:
            return scope
        return union_scopes(union_scopes(scope, kept.value.scope), kept.value.wanted)

    async def _take_flow(self, state: str) -> Flow:
        key = f"oauth-flow:{_hash(state)}"
        sealed = await self._cache.take(key) if state else None
        try:
            flow = None if sealed is None else msgspec.json.decode(self._sealer.open("", key, sealed), type=Flow)
        except (EncryptionError, msgspec.MsgspecError):
            flow = None
        if flow is None or flow.expires_at <= self._clock():
            raise FlowRefused("This link was used before, or is too old. Begin again.")
        return flow

    async def _exchange(self, flow: Flow, told: Mapping[str, str]) -> Grant:
        server = self._servers.get(flow.server)
        if server is None or not server.is_covered_by(flow.provider.resource):
            raise FlowRefused("The server is not configured any more.")
        try:
            # RFC 9207: whose answer this is, before anything in it counts.
            validate_authorization_response_iss(told.get("iss"), OAuthMetadata.model_validate_json(flow.metadata))
        except OAuthFlowError as error:
            _log.warning("oauth_answer_of_another_issuer", server=flow.server)
            raise FlowRefused("The answer comes from another authorization server than was asked.") from error
        if "error" in told:
            raise FlowRefused(_said(told["error"]))
        if not told.get("code"):
            raise FlowRefused("The authorization server has sent no code.")
        try:
            token = await self._grants.endpoint.exchange(server, flow, told["code"])
        except ProviderRefused as error:
            if error.code in ("invalid_client", "unauthorized_client"):
                await self._clients.forget(flow.server, flow.provider.issuer)
            raise FlowRefused(f"It did not work: {error}. Begin again.") from error
        return _granted(flow, token, self._clock())

    async def _connect(self, owner: str, server: str, grant: Grant) -> None:
        vault, name = self._grants.vault, grant_name(server)
        for _ in range(_ATTEMPTS):
            kept = await vault.get(owner, name)
            if await vault.put(owner, name, grant, kept.version if kept is not None else None) is not None:
                return
        raise NotNow("what was granted could not be stored")


def _single(parameters: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The parameters that count. Raises FlowRefused where one comes twice (RFC 6749, 3.1) or is too long."""
    told: dict[str, str] = {}
    for name, value in parameters:
        if name in _PARAMETERS:
            if name in told or len(value) > _MAX_PARAMETER:
                raise FlowRefused("This is not what an authorization server sends.")
            told[name] = value
    return told


def _granted(flow: Flow, token: OAuthToken, now: float) -> Grant:
    return Grant(
        id=new_id("grant_"),
        provider=flow.provider,
        client=flow.client,
        # What is left out is what was asked for (RFC 6749, 5.1).
        scope=token.scope if token.scope is not None else flow.scope,
        access_token=token.access_token,
        refresh_token=token.refresh_token,
        obtained_at=now,
        expires_at=expiry(token, now),
    )


def _said(error: str) -> str:
    if error == "access_denied":
        return "You did not allow it. Nothing is connected."
    shown = error[:64] if error.isascii() and error.isprintable() else "error"
    return f"The authorization server refused: {shown}."


def _pending_key(owner: str, server: str, code: str) -> str:
    return f"oauth-pending:{_hash(f'{len(owner)} {owner} {server} {code}')}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
