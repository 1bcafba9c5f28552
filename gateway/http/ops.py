"""Tickets, tools, the schema, and what operators ask: alive, ready, metrics (docs/protocol.md, section 6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.principal import Principal
from gateway.auth.tickets import TICKET_SECONDS, Tickets
from gateway.http.replies import Guard, json_bytes, json_reply
from gateway.metrics import Stats
from gateway.routing import Routes
from protocol.codec import encode
from protocol.schema import json_schema

__all__ = ["ops_routes"]


def ops_routes(
    guard: Guard, tickets: Tickets, routes: Routes, stats: Stats, ready: Callable[[], Awaitable[str | None]]
) -> list[Route]:
    """`ready` answers None, or in a few words why the gateway can't serve now."""
    schema = encode(json_schema())

    async def ticket(request: Request, principal: Principal) -> Response:
        return json_reply({"ticket": await tickets.issue(principal), "expires_in": TICKET_SECONDS})

    async def tools(request: Request, principal: Principal) -> Response:
        listed = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "runs_on": tool.runs_on,
                "approval": "required" if may_wait else "never",
            }
            for tool, may_wait in await routes.listed(principal)
        ]
        return json_reply({"tools": listed})

    async def schema_json(request: Request) -> Response:
        return json_bytes(schema)

    async def alive(request: Request) -> Response:
        return json_reply({"status": "ok"})

    async def is_ready(request: Request) -> Response:
        reason = await ready()
        return json_reply({"status": "ok"} if reason is None else {"status": reason}, 200 if reason is None else 503)

    async def metrics(request: Request) -> Response:
        return Response(stats.scrape(), media_type="text/plain; version=0.0.4")

    return [
        Route("/v1/tickets", guard(ticket), methods=["POST"]),
        Route("/v1/tools", guard(tools), methods=["GET"]),
        Route("/v1/schema.json", schema_json, methods=["GET"]),
        Route("/healthz", alive, methods=["GET"]),
        Route("/readyz", is_ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]
