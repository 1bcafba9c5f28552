"""`GET /v1/prompts`: what a principal may begin a message with."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.http.replies import Guard, json_bytes
from gateway.prompts import Prompts

__all__ = ["prompt_routes"]


def prompt_routes(guard: Guard, prompts: Prompts) -> list[Route]:
    async def listed(request: Request, principal: Principal) -> Response:
        return json_bytes(msgspec.json.encode({"prompts": await prompts.all(principal)}))

    return [Route("/v1/prompts", guard(listed), methods=["GET"])]
