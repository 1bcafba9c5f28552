"""How a response gives up a connection whose client takes nothing: ASGI itself has no word for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ABORT_EXTENSION", "abort_of"]

ABORT_EXTENSION = "tidegate.abort"
"""The key, in the `extensions` of an HTTP request's ASGI scope, of a function that ends the connection at once, with
all that is unsent."""


def abort_of(scope: Mapping[str, Any]) -> Callable[[], None]:
    """What ends the connection; on a server without the extension it does nothing, and the connection ends when its
    client or the server wants."""
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    return extensions.get(ABORT_EXTENSION, _nothing)


def _nothing() -> None:
    pass
