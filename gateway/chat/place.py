"""The conversation that is on the screen."""

from __future__ import annotations

import asyncio

from gateway.chat.view import View
from gateway.client_events import Events
from protocol.frames import ToolCall

__all__ = ["Place"]


class Place:
    """`events` are followed by `task` once the gateway knows the conversation. `stopping` is the turn that was told to
    stop, `answered` are the calls that were decided on here."""

    def __init__(self, id: str, events: Events) -> None:
        self.id = id
        self.events = events
        self.view = View()
        self.task: asyncio.Task[None] | None = None
        self.stopping: str | None = None
        self.answered: set[str] = set()

    @property
    def to_decide(self) -> ToolCall | None:
        """The oldest call that waits for a person."""
        return next((call for id, call in self.view.asked.items() if id not in self.answered), None)
