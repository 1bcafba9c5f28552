"""`POST /v1/contexts/{id}/messages`: a message, and its turn as the answer (docs/protocol.md, section 6)."""

from __future__ import annotations

from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.conversations import Conversations, Receipt, refusal
from gateway.http.event_stream import EventStream, event_stream_headers, told_in, watching
from gateway.http.formats import format_of
from gateway.http.replies import Guard, json_bytes, read_body, refuse
from gateway.http.requests import cursor_of
from gateway.http.streams import Following, Streams
from gateway.http.turn_fold import TurnFold
from gateway.http.turn_reading import TurnReading
from gateway.turn_places import TurnPlaces
from protocol.errors import ProtocolError
from stores.ports import StoreError

__all__ = ["message_routes", "wants_json"]


def message_routes(
    guard: Guard, streams: Streams, conversations: Conversations, places: TurnPlaces, max_bytes: int
) -> list[Route]:
    async def send(request: Request, principal: Principal) -> Response:
        format, cursor = format_of(request), cursor_of(request)
        frame = format.request(await read_body(request, max_bytes), request.path_params["id"])
        as_json = wants_json(request.headers.get("accept", ""))
        async with AsyncExitStack() as stack:
            following = await stack.enter_async_context(streams.admit(principal))
            receipt = await conversations.send(principal, frame, None)
            about = _about(receipt, frame.id, receipt.accepted.turn_id)
            try:
                place = await places.find(receipt, frame.id)
                about = _about(receipt, frame.id, place.turn_id)
                after = None if as_json else cursor
                await following.open(place.key, after or place.before)
                reading = TurnReading(following, places, place, after)
                if not as_json:
                    headers = event_stream_headers(format) | about
                    return EventStream(told_in(format, reading, following), headers, following, stack.pop_all())
                reply = await _whole(request, following, reading)
            except (ProtocolError, StoreError) as error:
                reply = refuse(_after_storing(refusal(error)))
            reply.headers.update(about)
            return reply

    return [Route("/v1/contexts/{id}/messages", guard(send), methods=["POST"])]


def wants_json(accept: str) -> bool:
    """Whether of the two forms a client names JSON, and names it first."""
    kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    named = [kind for kind in kinds if kind in ("application/json", "text/event-stream")]
    return named[:1] == ["application/json"]


def _about(receipt: Receipt, message_id: str, turn_id: str | None) -> dict[str, str]:
    """What an `ack` would say. It is no part of the context, so it has no place among the events."""
    about = {"tidegate-message-id": message_id}
    if turn_id is not None:
        about["tidegate-turn-id"] = turn_id
    if receipt.accepted.duplicate:
        about["tidegate-duplicate"] = "true"
    return about


def _after_storing(error: ProtocolError) -> ProtocolError:
    """The refusal to tell of a message that was stored: a client that takes it for one of the message itself would
    write it a second time, under another id."""
    if error.code != "unavailable":
        return error
    words = "the message is stored, but its turn can't be read now; send it again under the same id to follow it"
    return ProtocolError("unavailable", words, retry_after=error.retry_after)


async def _whole(request: Request, following: Following, reading: TurnReading) -> Response:
    """The turn's durable events: 200 once it is over, 202 where it waits for somebody."""
    fold = TurnFold()
    async with watching(request.receive, following.hang_up):
        while (told := await reading.read()) is not None:
            for one in told:
                fold.take(one)
            if following.caught_up and fold.waits and not reading.over:
                return json_bytes(fold.document(), 202)
    if not reading.over and following.reason is not None:
        raise following.reason
    return json_bytes(fold.document(), 200 if reading.over else 202)
