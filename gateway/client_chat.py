"""Handles of the client: one context, what was sent, one turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct

from gateway.client_errors import Lost
from gateway.client_events import Events, Frame
from gateway.client_follow import Restarted, TextDelta, TextFollower, TurnFollower
from gateway.core.fold import Transcript
from protocol.frames import Content, Message, Snapshot, ToolResponse, TurnEnd

if TYPE_CHECKING:
    from gateway.client import Client

__all__ = ["Chat", "Sent", "Turn"]


class Sent(Struct, frozen=True, kw_only=True):
    """A frame that the gateway has stored. `seq` is its event's, None where that is not known yet; `duplicate` says
    that it was stored before."""

    id: str
    context_id: str
    seq: int | None
    duplicate: bool


class Turn:
    """One turn, from its message on: iterate it for its events, or `updates` for its text. One task does either, once.

    A `Snapshot` stands in the place of events that were missed. It ends with the turn, whose end is then `end`. Raises
    Lost, Disconnected, and Refused where the context may not be followed any more.
    """

    def __init__(self, sent: Sent, events: Events) -> None:
        self.sent = sent
        self._events = events
        self._follower = TurnFollower(sent.id)

    @property
    def id(self) -> str:
        return self.sent.id

    @property
    def context_id(self) -> str:
        return self.sent.context_id

    @property
    def end(self) -> TurnEnd | None:
        return self._follower.end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        while self._follower.end is None:
            try:
                frame = await anext(self._events)
            except StopAsyncIteration:
                # The context was deleted or left, or the client was.
                raise Lost(self.context_id, self._follower.turn_id) from None
            if frame.context_id == self.context_id and self._follower.take(frame):
                return frame
        await self.aclose()
        raise StopAsyncIteration

    async def updates(self) -> AsyncGenerator[TextDelta | Restarted]:
        """The text of the turn's messages, piece by piece; after `Restarted` a message's text comes anew."""
        text = TextFollower()
        async for frame in self:
            for update in text.take(frame, self._follower.turn_id):
                yield update

    async def response(self, tool_call_id: str) -> ToolResponse:
        """The response to one of the turn's calls."""
        async for frame in self:
            for event in frame.events if isinstance(frame, Snapshot) else (frame,):
                if isinstance(event, ToolResponse) and event.tool_call_id == tool_call_id:
                    return event
        raise Lost(self.context_id, self._follower.turn_id)

    async def aclose(self) -> None:
        """Follow it no more; it runs on."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Chat:
    """One context of a client: the client's methods with the context filled in."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    @property
    def transcript(self) -> Transcript:
        return self._client.transcript(self.id)

    def events(self) -> Events:
        return self._client.events_of(self.id)

    async def send(self, content: Content, **options: Any) -> Sent:
        return await self._client.send(content, self.id, **options)

    async def ask(self, content: Content, **options: Any) -> Turn:
        return await self._client.ask(content, self.id, **options)

    def stream(self, content: Content, **options: Any) -> AsyncGenerator[str]:
        return self._client.stream(content, self.id, **options)

    async def regenerate(self, message_id: str | None = None, **options: Any) -> Turn:
        """Have a message of the user's answered once more (None: the last one of the path), as `ask` does. The answer
        that it had stays in the log, on a branch of its own. Raises ValueError where the transcript holds no such
        message."""
        said = [event for event in self.transcript.path if isinstance(event, Message) and event.role == "user"]
        if message_id is not None:
            known = [event for event in self.transcript.events if isinstance(event, Message) and event.role == "user"]
            said = [event for event in known if event.id == message_id]
        if not said:
            raise ValueError("there is no such message of the user's in what is known of the context")
        return await self.ask(said[-1].content, replaces=said[-1].id, **options)

    async def call_tool(self, tool: str, parameters: dict[str, Any]) -> ToolResponse:
        return await self._client.call_tool(tool, parameters, self.id)

    async def cancel(self, *, turn_id: str | None = None, tool_call_id: str | None = None) -> Sent:
        return await self._client.cancel(self.id, turn_id=turn_id, tool_call_id=tool_call_id)

    async def approve(self, tool_call_id: str, approved: bool = True, **options: Any) -> Sent:
        return await self._client.approve(self.id, tool_call_id, approved, **options)

    async def answer(self, question_id: str, content: dict[str, Any] | None = None, **options: Any) -> Sent:
        return await self._client.answer(self.id, question_id, content, **options)

    async def subscribe(self) -> None:
        await self._client.subscribe(self.id)

    async def unsubscribe(self) -> None:
        await self._client.unsubscribe(self.id)
