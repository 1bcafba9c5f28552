"""The gateway: sessions, turns, models and tools over the wire protocol.

A module that defines tools needs `tool` and `ToolContext` only, which are loaded at once; the rest is loaded when it is
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.tools.native import tool
from gateway.tools.port import Answer, ToolContext, ToolError

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.auth.host import Authenticate
    from gateway.auth.principal import Principal
    from gateway.client import Client, connect
    from gateway.settings import Settings, SettingsError, load_settings

__all__ = [
    "Answer",
    "Authenticate",
    "Client",
    "Gateway",
    "Principal",
    "Settings",
    "SettingsError",
    "ToolContext",
    "ToolError",
    "connect",
    "load_settings",
    "tool",
]

_LATER = {
    "Authenticate": "gateway.auth.host",
    "Client": "gateway.client",
    "Gateway": "gateway.app",
    "Principal": "gateway.auth.principal",
    "Settings": "gateway.settings",
    "SettingsError": "gateway.settings",
    "connect": "gateway.client",
    "load_settings": "gateway.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
