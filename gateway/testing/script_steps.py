"""What the scripts of all fake providers share: steps that are not events of the wire, and the reply made of steps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

__all__ = ["CommonStep", "Cut", "Delay", "Hold", "Raw", "ScriptedReply", "Stall", "split_words"]

S = TypeVar("S")


class Raw(Struct, frozen=True):
    """Bytes of the body as they are."""

    data: bytes


class Hold(Struct, frozen=True):
    """Wait until the event is set, or the client goes away."""

    until: asyncio.Event


class Delay(Struct, frozen=True):
    """Wait so many seconds, or until the client goes away."""

    seconds: float


class Stall(Struct, frozen=True):
    """Send nothing more, until the client goes away."""


class Cut(Struct, frozen=True):
    """Break the connection in the middle of the body."""


CommonStep = Raw | Hold | Delay | Stall | Cut


class ScriptedReply(Struct, Generic[S], kw_only=True):
    """One answer of the server: `body`, or else the `steps` as an event stream. Status and headers leave with the first
    step that sends something, so that a Stall or a Cut before it leaves the client without either."""

    steps: Sequence[S] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    body: bytes | None = None


def split_words(text: str) -> list[str]:
    """Each word with the space around it; together they are exactly `text`."""
    return re.findall(r"\s*\S+\s*|\s+", text)
