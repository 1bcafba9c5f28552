"""A host application's own authentication, as a function of its connections."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
import structlog
from anyio import CapacityLimiter, to_thread
from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from gateway.auth.origin import origin_allowed
from gateway.auth.principal import Principal
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import new_id

__all__ = ["Authenticate", "HostScheme"]

Authenticate = Callable[[HTTPConnection], Principal | Awaitable[Principal | None] | None]
"""Who the connection (a request, or a socket's upgrade) is, by its headers, cookies, session or state. None: nothing
of the host's, so the gateway's own schemes are tried. Credentials that are wrong are refused by raising
`fastapi.HTTPException` or its base in Starlette (401, 403, 429, 503), Starlette's `AuthenticationError`, or the
gateway's `ProtocolError`. A plain function is called in a thread."""

_SECONDS = 10.0
_THREADS = 40
_SAFE = ("GET", "HEAD", "OPTIONS")
_REFUSALS: dict[int, tuple[ErrorCode, str]] = {
    401: ("unauthenticated", "the credentials are not valid"),
    403: ("forbidden", "these credentials do not allow it"),
    429: ("rate_limited", "too many tries"),
    503: ("unavailable", "credentials can't be checked now"),
}

_log = structlog.get_logger(__name__)


class HostScheme:
    """Asks the host, for `seconds` at most, and holds its answer against what a principal is: nothing that the host's
    function does lets anybody in by mistake, or shows in what the client is told.

    A browser sends a cookie with whatever request any page makes it send, so a request that changes something passes
    only from an origin that may open a socket too (`origins`, as for `origin_allowed`).
    """

    def __init__(self, authenticate: Authenticate, origins: Sequence[str], *, seconds: float = _SECONDS) -> None:
        self._authenticate = authenticate
        self._origins = origins
        self._seconds = seconds
        self._threads = CapacityLimiter(_THREADS)

    async def principal(self, connection: HTTPConnection) -> Principal | None:
        """None where the connection shows nothing of the host's. Raises ProtocolError: what the host refuses with,
        `unauthenticated` for a principal that has expired, `unavailable` where the host is slow, `internal` for its
        bugs."""
        answer = await self._ask(connection)
        if answer is None:
            return None
        principal = _checked(answer)
        if principal.expires_at is not None and principal.expires_at <= time.time():
            raise _refusal(401)
        self._check_origin(connection)
        return principal

    async def _ask(self, connection: HTTPConnection) -> object:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await self._call(connection)
        except ProtocolError:
            raise
        except HTTPException as error:
            if error.status_code not in _REFUSALS:
                raise _bug("authenticate raised an HTTPException", error) from error
            raise _refusal(error.status_code) from error
        except AuthenticationError as error:
            raise _refusal(401) from error
        except Exception as error:  # the boundary to the host's code - its bug is answered, and logged
            if limit.expired():
                _log.warning("authenticate was too slow", seconds=self._seconds)
                raise _refusal(503) from error
            raise _bug("authenticate failed", error) from error

    async def _call(self, connection: HTTPConnection) -> object:
        if _is_async(self._authenticate):
            answer: object = self._authenticate(connection)
        else:
            # A thread that hangs is left behind; the limiter bounds how many there are.
            answer = await to_thread.run_sync(
                self._authenticate, connection, abandon_on_cancel=True, limiter=self._threads
            )
        return await cast("Awaitable[object]", answer) if inspect.isawaitable(answer) else answer

    def _check_origin(self, connection: HTTPConnection) -> None:
        if connection.scope["type"] != "http" or connection.scope["method"] in _SAFE:
            return  # a socket's was checked before
        headers, scheme = connection.headers, connection.scope.get("scheme", "http")
        if not origin_allowed(headers.get("origin"), headers.get("host", ""), scheme, self._origins):
            raise ProtocolError("forbidden", "this origin is not allowed", path="headers.origin")


def _checked(answer: object) -> Principal:
    try:
        if isinstance(answer, Principal):
            # What is no field's type, a list of roles for one, was never checked.
            principal = msgspec.convert(msgspec.structs.asdict(answer), Principal)
            if principal.tenant and principal.subject:
                return principal
    except msgspec.ValidationError as error:
        raise _bug("authenticate answered a malformed principal", error) from error
    raise _bug(f"authenticate answered {type(answer).__name__}, no principal with a tenant and a subject", None)


def _refusal(status: int) -> ProtocolError:
    code, message = _REFUSALS[status]
    return ProtocolError(code, message, retry_after=1.0 if status in (429, 503) else None)


def _bug(what: str, error: Exception | None) -> ProtocolError:
    error_id = new_id("err_")
    _log.error(what, error_id=error_id, error=type(error).__name__ if error is not None else None, exc_info=error)
    return ProtocolError("internal", f"an internal error occurred ({error_id})")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
