"""The conversation that is on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.chat.deciding import Deciding
from gateway.chat.view import View
from gateway.client_events import Events
from protocol.frames import DurableEvent, Message

__all__ = ["Place", "last_said"]


class Place:
    """`events` are followed by `task` once the gateway knows the conversation. `stopping` is the turn that was told to
    stop."""

    def __init__(self, id: str, events: Events) -> None:
        self.id = id
        self.events = events
        self.view = View()
        self.task: asyncio.Task[None] | None = None
        self.stopping: str | None = None
        self.deciding = Deciding(self.view)


def last_said(path: Iterable[DurableEvent]) -> Message:
    """The last message of the user's. Raises ValueError."""
    said = [event for event in path if isinstance(event, Message) and event.role == "user"]
    if not said:
        raise ValueError("nothing was said here yet")
    return said[-1]
