"""Cancels, approvals and answers of client tools, for clients without a socket (docs/protocol.md, section 6)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.conversations import Conversations, Receipt
from gateway.http.replies import Guard, json_bytes, read_body
from gateway.http.requests import frame_of
from protocol.codec import encode
from protocol.frames import Ack, AnswerTool, ApproveTool, Cancel

__all__ = ["answer_routes"]


def answer_routes(guard: Guard, conversations: Conversations, max_bytes: int) -> list[Route]:
    async def cancel(request: Request, principal: Principal) -> Response:
        frame = frame_of(await read_body(request, max_bytes), Cancel, request.path_params["id"])
        return _acknowledged(frame.id, await conversations.cancel(principal, frame))

    async def approve(request: Request, principal: Principal) -> Response:
        frame = frame_of(await read_body(request, max_bytes), ApproveTool, request.path_params["id"])
        return _acknowledged(frame.id, await conversations.approve(principal, frame, "http"))

    async def answer(request: Request, principal: Principal) -> Response:
        frame = frame_of(await read_body(request, max_bytes), AnswerTool, request.path_params["id"])
        # Whoever has no session answers for any of the principal's.
        return _acknowledged(frame.id, await conversations.answer(principal, frame, None))

    one = "/v1/contexts/{id}"
    return [
        Route(f"{one}/cancel", guard(cancel), methods=["POST"]),
        Route(f"{one}/approvals", guard(approve), methods=["POST"]),
        Route(f"{one}/tool_responses", guard(answer), methods=["POST"]),
    ]


def _acknowledged(id: str, receipt: Receipt) -> Response:
    ack = Ack(id=id, context_id=receipt.key.id, seq=receipt.seq, duplicate=receipt.accepted.duplicate)
    return json_bytes(encode(ack))
