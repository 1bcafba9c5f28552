"""Who the gateway is for an authorization server: a configured client, a metadata document, or one that it registered
(RFC 7591)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

import structlog
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.oauth2 import check_registration_usable
from mcp.client.auth.utils import (
    create_client_registration_request,
    handle_registration_response,
    should_use_client_metadata_url,
)
from mcp.shared.auth import OAuthClientMetadata
from pydantic import AnyUrl

from gateway.mcp.oauth_discovery import Found
from gateway.mcp.oauth_records import GATEWAY, Client, Registration
from gateway.mcp.oauth_settings import ProtectedServer
from gateway.mcp.oauth_wire import NotNow, ProviderRefused, Wire
from gateway.vault import Vault

__all__ = ["CLIENT_NAME", "Clients", "client_metadata"]

CLIENT_NAME: Final = "Tidegate"
_EARLY_SECONDS: Final = 3600.0
_Method = Literal["none", "client_secret_post", "client_secret_basic"]
_METHODS: Final = ("client_secret_basic", "client_secret_post", "none")
_log = structlog.stdlib.get_logger(__name__)


def client_metadata(redirect_uri: str, method: _Method = "none") -> OAuthClientMetadata:
    """What the gateway says about itself (RFC 7591, 2)."""
    return OAuthClientMetadata(
        client_name=CLIENT_NAME,
        redirect_uris=[AnyUrl(redirect_uri)],
        token_endpoint_auth_method=method,
        application_type="web" if redirect_uri.startswith("https:") else "native",
    )


class Clients:
    """A registration is made once for all instances and users, and kept sealed."""

    def __init__(
        self, wire: Wire, vault: Vault[Registration], redirect_uri: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._wire = wire
        self._vault = vault
        self._redirect_uri = redirect_uri
        self._clock = clock

    async def client(self, server: ProtectedServer, found: Found) -> Client:
        """Raises NotNow, ProviderRefused, Unavailable."""
        settings = server.settings
        supported = found.metadata.token_endpoint_auth_methods_supported
        if settings.client_id is not None:
            method = _method(supported, server.client_secret is not None)
            return Client(id=settings.client_id, method=method)
        url = settings.client_metadata_url
        if url is not None and should_use_client_metadata_url(found.metadata, url):
            return Client(id=url)
        return await self._registered(server, found, _method(supported))

    async def forget(self, server: str, issuer: str) -> None:
        """The authorization server does not know the registration (any more)."""
        await self._vault.delete(GATEWAY, self._name(server, issuer))

    async def _registered(self, server: ProtectedServer, found: Found, method: _Method) -> Client:
        issuer = found.provider.issuer
        name = self._name(server.name, issuer)
        kept = await self._vault.get(GATEWAY, name)
        while True:
            if kept is not None and kept.value is not None and self._is_good(kept.value):
                return kept.value.client
            made = await self._register(server, found, method)
            if await self._vault.put(GATEWAY, name, made, kept.version if kept is not None else None) is not None:
                return made.client
            # Another instance was sooner: its registration is everybody's.
            kept = await self._vault.get(GATEWAY, name)

    def _is_good(self, registration: Registration) -> bool:
        end = registration.expires_at
        return end is None or end > self._clock() + _EARLY_SECONDS

    async def _register(self, server: ProtectedServer, found: Found, method: _Method) -> Registration:
        if found.metadata.registration_endpoint is None:
            raise ProviderRefused(
                f"the authorization server of {server.name} registers nobody by itself: register the gateway there "
                f"with the redirect URI {self._redirect_uri}, and put its client_id into the settings"
            )
        request = create_client_registration_request(found.metadata, client_metadata(self._redirect_uri, method), "")
        response = await self._wire.send(request)
        if response.status_code >= 500 or response.status_code == 429:
            raise NotNow(f"the authorization server of {server.name} answers {response.status_code}")
        try:
            info = await handle_registration_response(response)
            check_registration_usable(info)
        except OAuthFlowError as error:
            _log.warning("oauth_registration_refused", server=server.name, status=response.status_code)
            raise ProviderRefused(f"the authorization server of {server.name} did not register the gateway") from error
        # A secret with no method stands for the usual one (RFC 7591, 2).
        usual = "client_secret_basic" if info.client_secret is not None else "none"
        client = Client(id=info.client_id, secret=info.client_secret, method=info.token_endpoint_auth_method or usual)
        # 0 stands for never (RFC 7591, 3.2.1).
        end = float(info.client_secret_expires_at) if info.client_secret_expires_at else None
        return Registration(issuer=found.provider.issuer, client=client, expires_at=end)

    def _name(self, server: str, issuer: str) -> str:
        # Another redirect URI is another client.
        digest = hashlib.sha256(f"{issuer}\n{self._redirect_uri}".encode()).hexdigest()[:32]
        return f"oauth-client/{server}/{digest}"


def _method(supported: Sequence[str] | None, secret: bool | None = None) -> _Method:
    """How the gateway shows who it is: with a secret, if it may have one; `secret` says whether it has one already."""
    if secret is False:
        return "none"
    # Absent stands for client_secret_basic (RFC 8414, 2).
    offered: list[_Method] = [method for method in _METHODS if method in (supported or ("client_secret_basic",))]
    if secret and offered[:1] in ([], ["none"]):
        return "client_secret_basic"
    return offered[0] if offered else "none"
