"""JSON over HTTP (docs/protocol.md, section 6): replies, refusals, and who asks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.authenticator import Authenticator
from gateway.auth.principal import Principal
from gateway.conversations import refusal
from protocol.codec import encode, error_frame, invalid_frame
from protocol.errors import ERRORS, ProtocolError
from protocol.ids import new_id
from stores.ports import StoreError

__all__ = ["Endpoint", "Guard", "Handler", "body", "json_bytes", "json_reply", "page_size", "read_body", "refuse"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_MAX_PAGE = 200

Handler = Callable[[Request, Principal], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def json_bytes(data: bytes, status: int = 200) -> Response:
    return Response(data, status, media_type="application/json")


def json_reply(value: Any, status: int = 200) -> Response:
    return json_bytes(orjson.dumps(value), status)


def refuse(error: ProtocolError) -> Response:
    """The refusal with the fields and status of section 2."""
    reply = json_bytes(b'{"error":%b}' % encode(error_frame(error)), ERRORS[error.code].http)
    if error.retry_after is not None:
        reply.headers["retry-after"] = str(max(1, round(error.retry_after)))
    if error.code == "unauthenticated":
        reply.headers["www-authenticate"] = "Bearer"
    return reply


class Guard:
    """Makes an endpoint of a handler: credentials first, and every failure as the page of the contract says."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def __call__(self, handler: Handler) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                principal = await self._authenticator.from_connection(request)
                if principal is None:
                    raise ProtocolError("unauthenticated", "show an API key or a token in a header")
                return await handler(request, principal)
            except (ProtocolError, StoreError) as error:
                return refuse(refusal(error))
            except Exception:  # noqa: BLE001 - the boundary to a request: our bug is answered in the contract's words
                error_id = new_id("err_")
                _log.exception("a request failed", error_id=error_id)
                return refuse(ProtocolError("internal", f"an internal error occurred ({error_id})"))

        return endpoint


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; raises `too_large` beyond `limit` bytes."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise ProtocolError("too_large", f"a body has {limit} bytes at most")
    return bytes(data)


async def body(request: Request, shape: type[_T], limit: int) -> _T:
    """The request's JSON as `shape`; raises `too_large` beyond `limit` bytes, `invalid_frame` with the path."""
    data = await read_body(request, limit)
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        raise invalid_frame(error, data, shape) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError("invalid_frame", "the body is not valid JSON") from error


def page_size(request: Request, default: int) -> int:
    """`?limit=`, between 1 and 200."""
    text = request.query_params.get("limit")
    if text is None:
        return default
    if re.fullmatch("[0-9]{1,3}", text) is None or not 1 <= int(text) <= _MAX_PAGE:
        raise ProtocolError("invalid_frame", f"limit is a number from 1 to {_MAX_PAGE}", path="limit")
    return int(text)
