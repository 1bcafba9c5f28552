"""Whose a request is that the SDK hands to a handler."""

from __future__ import annotations

from typing import Any, cast

from mcp.server.context import ServerRequestContext
from starlette.requests import Request

from gateway.auth.principal import Principal
from gateway.mcp_endpoint.endpoint import PRINCIPAL

__all__ = ["Context", "principal_of"]

Context = ServerRequestContext[Any, Any]


def principal_of(ctx: Context) -> Principal:
    return cast("Principal", cast("Request", ctx.request).scope[PRINCIPAL])
