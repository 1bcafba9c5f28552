"""The port between a context's events and what a client without a socket reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from protocol.frames import Event, SendMessage, Snapshot, TurnEnd

__all__ = ["Format"]


class Format(Protocol):
    """Writes one response as Server-Sent Events, and reads the request that asks for it. One object a response;
    it does no I/O. `cursor` is `<epoch>:<seq>`, for the `id` of an event that a client may resume from."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response, besides those of every event stream."""
        ...

    @property
    def over(self) -> bool:
        """Whether a response that follows a context has said all that it says: those that tell one turn end with it,
        and have nothing to say where none goes on."""
        ...

    def request(self, body: bytes, context_id: str) -> SendMessage:
        """The message in the body of a `POST`. Raises ProtocolError, which names the field."""
        ...

    def snapshot(self, frame: Snapshot, data: bytes, cursor: str) -> bytes:
        """A snapshot, which stands for everything before it. `data` is its JSON."""
        ...

    def event(self, event: Event, data: bytes, cursor: str) -> bytes:
        """The next event of the context; `data` is its JSON. Empty where the format has no word for it."""
        ...

    def end(self, end: TurnEnd | None) -> bytes:
        """What closes the response: after the turn's end, or (None) because the server goes."""
        ...
