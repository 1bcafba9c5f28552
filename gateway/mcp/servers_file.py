"""The MCP servers that are configured: those of the settings, and of a `mcpServers` file as other hosts read it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from gateway.mcp.names import SERVER_NAME
from gateway.mcp.settings import McpServerSettings, McpSettingsError, checked, expanded
from gateway.settings_layers import SettingsError

__all__ = ["configured_servers", "read_servers"]

# Claude Desktop, Cursor and most others; VS Code.
_LISTS: Final = ("mcpServers", "servers")
_TYPES: Final = {
    None: None,
    "stdio": "command",
    "http": "url",
    "streamable-http": "url",
    "streamableHttp": "url",
    "streamable_http": "url",
}
# Other keys are another host's: what it approves by itself, icons, descriptions. None of them may open anything here.
_KEYS: Final = ("command", "args", "env", "cwd", "url", "headers")
_LARGEST: Final = 1_048_576


def configured_servers(
    settings: Mapping[str, McpServerSettings], file: str | None, environ: Mapping[str, str] = os.environ
) -> dict[str, McpServerSettings]:
    """All servers by name, those of the file first; one of the settings takes the place of the file's of the same name.
    Raises SettingsError, which names the place, the key and what was expected."""
    servers = read_servers(Path(file), environ) if file is not None else {}
    for name, server in settings.items():
        servers[name] = _usable(f"mcp.{name}", name, server, environ)
    return servers


def read_servers(path: Path, environ: Mapping[str, str] = os.environ) -> dict[str, McpServerSettings]:
    """The servers of a file, without those that are disabled there. Raises SettingsError.

    Names are what the gateway's tools begin with: characters that may not be in them become `-`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise SettingsError(f"tools.mcp_servers: {path}: {error.strerror or error}") from error
    if len(text) > _LARGEST:
        raise SettingsError(f"{path}: expected at most {_LARGEST:,} bytes")
    try:
        tree = msgspec.json.decode(text.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path}: expected JSON: {error}") from error
    key, entries = _entries(path, tree)
    servers: dict[str, McpServerSettings] = {}
    for given, entry in entries.items():
        place = f"{path}: {key}.{given}"
        server = _server(place, entry)
        if server is None:
            continue
        name = _name(given)
        if name in servers:
            raise SettingsError(f"{place}: another server of the file is named {name!r} too")
        servers[name] = _usable(place, name, server, environ)
    return servers


def _entries(path: Path, tree: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(tree, dict):
        for key in _LISTS:
            entries = cast("dict[str, Any]", tree).get(key)
            if isinstance(entries, dict):
                return key, cast("dict[str, Any]", entries)
    raise SettingsError(f'{path}: expected an object with "mcpServers", an object of servers by name')


def _server(place: str, entry: Any) -> McpServerSettings | None:
    """None where it is disabled."""
    if not isinstance(entry, dict):
        raise SettingsError(f"{place}: expected an object")
    fields = cast("dict[str, Any]", entry)
    if fields.get("disabled") is True or fields.get("enabled") is False:
        return None
    kind = fields.get("type", fields.get("transport"))
    if not (kind is None or isinstance(kind, str)) or kind not in _TYPES:
        raise SettingsError(f"{place}.type: {kind!r} is no transport that is spoken here; expected stdio or http")
    wanted = _TYPES[kind]
    if wanted is not None and wanted not in fields:
        raise SettingsError(f"{place}.{wanted}: is missing, as the type is {kind}")
    known = {key: fields[key] for key in _KEYS if fields.get(key) is not None}
    if isinstance(env := known.get("env"), dict):
        # JSON has numbers and booleans; an environment has not.
        known["env"] = {name: _text(value) for name, value in cast("dict[str, Any]", env).items()}
    try:
        return msgspec.convert(known, McpServerSettings)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).replace("`", "").partition(" - at $")
        raise SettingsError(f"{place}{at}: {reason[:1].lower()}{reason[1:]}") from error


def _text(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    return value


def _name(given: str) -> str:
    if SERVER_NAME.fullmatch(given):
        return given
    return re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_-]", "-", given))[:32].strip("_-")


def _usable(place: str, name: str, server: McpServerSettings, environ: Mapping[str, str]) -> McpServerSettings:
    try:
        made = expanded(server, environ)
        checked(name, made)
    except McpSettingsError as error:
        raise SettingsError(f"{place}{f'.{error.key}' if error.key else ''}: {error.problem}") from error
    return made
