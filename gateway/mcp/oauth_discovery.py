"""Finds the authorization server of an MCP server (RFC 9728, RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    create_oauth_metadata_request,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    get_client_metadata_scopes,
    handle_auth_metadata_response,
    handle_protected_resource_response,
    issuers_match,
    validate_metadata_issuer,
)
from mcp.shared.auth import DEFAULT_GRANT_TYPES, OAuthMetadata, ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url
from msgspec import Struct

from gateway.mcp.oauth_records import Provider
from gateway.mcp.oauth_settings import ProtectedServer
from gateway.mcp.oauth_wire import NotNow, ProviderRefused, Wire, acceptable

__all__ = ["Discovery", "Found"]

_KEPT_SECONDS: Final = 600.0


class Found(Struct, frozen=True):
    """`scope` is what the server wants its users to grant; None: it does not say."""

    provider: Provider
    metadata: OAuthMetadata
    scope: str | None


class Discovery:
    """Asks once in ten minutes and server."""

    def __init__(self, wire: Wire, clock: Callable[[], float] = time.monotonic) -> None:
        self._wire = wire
        self._clock = clock
        self._found: dict[str, tuple[float, Found]] = {}

    async def find(self, server: ProtectedServer, *, anew: bool = False) -> Found:
        """`anew`: what was found before has led to nothing that the server accepts. Raises NotNow, ProviderRefused."""
        known = self._found.get(server.name)
        if not anew and known is not None and known[0] > self._clock():
            return known[1]
        found = await self._find(server)
        self._found[server.name] = (self._clock() + _KEPT_SECONDS, found)
        return found

    async def _find(self, server: ProtectedServer) -> Found:
        challenge = await self._wire.challenge(server.url)
        named = extract_resource_metadata_from_www_auth(challenge) if challenge.status_code in (401, 403) else None
        resource = await self._resource(server, named)
        metadata = await self._metadata(server, resource)
        scope = get_client_metadata_scopes(
            extract_scope_from_www_auth(challenge), resource, metadata, list(DEFAULT_GRANT_TYPES)
        )
        return Found(_provider(server, metadata, resource), metadata, scope)

    async def _resource(self, server: ProtectedServer, named: str | None) -> ProtectedResourceMetadata | None:
        for url in build_protected_resource_metadata_discovery_urls(named, server.url):
            if not acceptable(url, server.url):
                raise ProviderRefused(f"{server.name} names an address for its metadata that is not asked: no https")
            response = await self._wire.send(create_oauth_metadata_request(url))
            if response.status_code >= 500 or response.status_code == 429:
                # That says nothing about whether there is any.
                raise NotNow(f"{server.name} does not tell now who authorizes (status {response.status_code})")
            resource = await handle_protected_resource_response(response)
            if resource is not None:
                own = resource_url_from_server_url(server.url)
                if not check_resource_allowed(own, str(resource.resource)):
                    raise ProviderRefused(f"{server.name} shows the metadata of another server: {resource.resource}")
                return resource
        return None

    async def _metadata(self, server: ProtectedServer, resource: ProtectedResourceMetadata | None) -> OAuthMetadata:
        issuer = _issuer(server, resource)
        for url in build_oauth_authorization_server_metadata_discovery_urls(issuer, server.url):
            if not acceptable(url, server.url):
                raise ProviderRefused(f"{server.name} names an authorization server without https")
            response = await self._wire.send(create_oauth_metadata_request(url))
            told, metadata = await handle_auth_metadata_response(response)
            if metadata is not None:
                return _checked(server, metadata, issuer)
            if not told:
                raise NotNow(f"the authorization server of {server.name} answers {response.status_code}")
        raise ProviderRefused(f"the authorization server of {server.name} publishes no metadata")


def _issuer(server: ProtectedServer, resource: ProtectedResourceMetadata | None) -> str | None:
    """Which authorization server is asked; None: one at the server's own origin, as in the first version of the MCP's
    authorization."""
    offered = [str(url) for url in resource.authorization_servers] if resource is not None else []
    wanted = server.settings.issuer
    if wanted is None:
        return offered[0] if offered else None
    if offered and not any(issuers_match(one, wanted) for one in offered):
        raise ProviderRefused(f"{server.name} does not name the authorization server of the settings")
    return next((one for one in offered if issuers_match(one, wanted)), wanted)


def _checked(server: ProtectedServer, metadata: OAuthMetadata, issuer: str | None) -> OAuthMetadata:
    origin = "/".join(server.url.split("/", 3)[:3])
    expected = str(metadata.issuer) if issuer is None and issuers_match(str(metadata.issuer), origin) else issuer
    try:
        validate_metadata_issuer(metadata, expected or origin)
    except OAuthFlowError as error:
        raise ProviderRefused(f"the authorization server of {server.name} calls itself by another name") from error
    endpoints = (metadata.authorization_endpoint, metadata.token_endpoint)
    optional = (metadata.registration_endpoint, metadata.revocation_endpoint)
    for endpoint in (*endpoints, *(one for one in optional if one is not None)):
        if not acceptable(str(endpoint), server.url):
            raise ProviderRefused(f"an address of the authorization server of {server.name} has no https")
    if "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise ProviderRefused(f"the authorization server of {server.name} does not offer PKCE with S256")
    return metadata


def _provider(server: ProtectedServer, metadata: OAuthMetadata, resource: ProtectedResourceMetadata | None) -> Provider:
    revocation = metadata.revocation_endpoint
    return Provider(
        issuer=str(metadata.issuer),
        authorization_endpoint=str(metadata.authorization_endpoint),
        token_endpoint=str(metadata.token_endpoint),
        revocation_endpoint=str(revocation) if revocation is not None else None,
        resource=str(resource.resource) if resource is not None else resource_url_from_server_url(server.url),
    )
