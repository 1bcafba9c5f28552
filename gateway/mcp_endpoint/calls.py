"""Direct calls of tools that are awaited: stored and run as turns, followed to their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from gateway.auth.principal import Principal
from gateway.conversations import Conversations, refusal
from gateway.http.streams import Following, Streams
from gateway.http.told import Told
from gateway.http.turn_reading import TurnReading
from gateway.turn_places import TurnPlaces
from protocol.errors import ProtocolError
from protocol.frames import CallTool, Cancel, Snapshot, ToolCall, ToolProgress, ToolResponse
from protocol.ids import new_id
from stores.ports import StoreError

__all__ = ["CALLS_CONTEXT", "AwaitedCalls", "Report"]

_log = structlog.get_logger(__name__)

CALLS_CONTEXT: Final = "mcp"
"""The conversation of each principal in which such calls stand, where its other devices see and decide them."""

_CANCEL_SECONDS = 5.0

Report = Callable[[float, float | None, str | None], Awaitable[None]]


class AwaitedCalls:
    """Whoever waits may go away: the call is cancelled then, as a user would."""

    def __init__(self, conversations: Conversations, streams: Streams, places: TurnPlaces) -> None:
        self._conversations = conversations
        self._streams = streams
        self._places = places

    async def call(self, principal: Principal, frame: CallTool, report: Report) -> ToolResponse:
        """The call's answer. `report` is told its progress, and when it waits for a person. Raises ProtocolError."""
        try:
            async with self._streams.admit(principal) as following:
                receipt = await self._conversations.call(principal, frame, None, "mcp")
                try:
                    place = await self._places.find(receipt, frame.id)
                    await following.open(place.key, place.before)
                    return await _answer(following, TurnReading(following, self._places, place, None), frame, report)
                except asyncio.CancelledError:
                    await self._cancel(principal, receipt.key.id, frame.id)
                    raise
        except StoreError as error:
            raise refusal(error) from error

    async def _cancel(self, principal: Principal, context_id: str, call_id: str) -> None:
        cancel = Cancel(id=new_id("cancel_"), context_id=context_id, tool_call_id=call_id)
        # Shielded, or what cancelled the wait would cancel this as well: a scope of the SDK's does it time and again.
        stored = asyncio.ensure_future(self._conversations.cancel(principal, cancel))
        with anyio.CancelScope(shield=True):
            await asyncio.wait((stored,), timeout=_CANCEL_SECONDS)
        if not stored.done():
            stored.cancel()
        elif stored.exception() is not None:
            _log.warning(
                "a call that nobody waits for could not be cancelled", call=call_id, exc_info=stored.exception()
            )


async def _answer(following: Following, reading: TurnReading, frame: CallTool, report: Report) -> ToolResponse:
    while (told := await reading.read()) is not None:
        for one in told:
            answer = await _heed(one, frame.id, report)
            if answer is not None:
                return answer
    raise following.reason or ProtocolError("unavailable", "the call's answer can't be read now", retry_after=1)


async def _heed(one: Told, call_id: str, report: Report) -> ToolResponse | None:
    events = one.frame.events if isinstance(one.frame, Snapshot) else [one.frame]
    for event in events:
        if isinstance(event, ToolResponse) and event.tool_call_id == call_id:
            return event
        if isinstance(event, ToolProgress) and event.tool_call_id == call_id:
            await report(event.progress, event.total, event.message)
        elif isinstance(event, ToolCall) and event.approval == "required":
            await report(0, None, f"waits for its user, in the conversation {CALLS_CONTEXT!r}")
    return None
