"""Tools whose calls wait for a person, or not, as the settings of a test say; each run is a line in PAYING_TRACE."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from gateway import tool

__all__ = ["look", "pay", "send"]

_F = TypeVar("_F", bound=Callable[..., Any])


def _trace(line: str) -> None:
    # One short write to a file that is only appended to is whole, whoever else writes.
    file = os.open(os.environ["PAYING_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def _described(function: _F) -> _F:
    """As LOOK_SAYS, where it is set: another tool of the same name."""
    function.__doc__ = os.environ.get("LOOK_SAYS", function.__doc__)
    return function


@tool(approval={"when": {"amount": {"gt": 100}}})
async def pay(amount: int, to: str) -> str:
    """Pay somebody."""
    _trace(f"pay {amount} {to}")
    return f"paid {amount} to {to}"


@tool(approval="first")
async def send(text: str) -> str:
    """Send a letter."""
    _trace(f"send {text}")
    return f"sent {text}"


@tool
@_described
async def look(at: str) -> str:
    """Look at something."""
    _trace(f"look {at}")
    return f"saw {at}"
