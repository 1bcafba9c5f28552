"""From settings to the part of the gateway that authorizes it at MCP servers; without them nothing of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.encryption import Encryption, EncryptionSettings
from gateway.mcp.oauth_settings import ProtectedServer, protected, redirect_uri
from gateway.mcp.settings import McpServerSettings
from gateway.settings_layers import SettingsError
from stores.hot import Hot
from stores.ports import SecretStore

if TYPE_CHECKING:
    from gateway.mcp.oauth import OAuth

__all__ = ["Place", "build_oauth", "protected_servers"]

Place = tuple[str | None, str, int]
"""Where browsers reach the gateway: `server.public_url`, else `server.host` and `server.port`."""


def protected_servers(
    servers: Mapping[str, McpServerSettings], encryption: EncryptionSettings, place: Place
) -> list[ProtectedServer]:
    """The servers that need their users' authorization. Raises SettingsError, one line, where something is missing or
    wrong for them."""
    found: list[ProtectedServer] = []
    for name, server in servers.items():
        if server.oauth is None or server.url is None:
            continue
        if not encryption.keys:
            raise SettingsError(
                f"mcp.{name}.oauth: expected encryption.keys with it, as tokens are kept encrypted: put what 'openssl "
                "rand -base64 32' prints into [encryption] keys, or TIDEGATE_ENCRYPTION_KEYS"
            )
        if "authorization" in {header.lower() for header in server.headers}:
            raise SettingsError(f"mcp.{name}.headers: expected no Authorization beside oauth")
        try:
            redirect_uri(*place)
            found.append(protected(name, server.url, server.oauth))
        except ValueError as error:
            raise SettingsError(f"mcp.{name}.oauth: {error}") from error
    return found


def build_oauth(
    servers: Mapping[str, McpServerSettings], encryption: EncryptionSettings, place: Place, store: SecretStore, hot: Hot
) -> OAuth | None:
    """None where no server needs it. Raises SettingsError."""
    found = protected_servers(servers, encryption, place)
    if not found:
        return None
    from gateway.mcp.oauth import OAuth

    return OAuth(found, redirect_uri(*place), Encryption(encryption), store, hot.tickets, hot.bus, hot.limits)
