"""The one table of error codes and close codes, with what each asks of the client (docs/protocol.md, 2 and 5)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, NamedTuple

__all__ = ["CLOSE_CODES", "ERRORS", "Close", "CloseInfo", "ErrorCode", "ErrorInfo", "ProtocolError"]

ErrorCode = Literal[
    "invalid_frame",
    "too_large",
    "unauthenticated",
    "forbidden",
    "not_found",
    "conflict",
    "busy",
    "rate_limited",
    "unavailable",
    "provider_error",
    "provider_overloaded",
    "context_too_long",
    "internal",
]


class ErrorInfo(NamedTuple):
    """What a code means over HTTP, and whether the same frame may be sent again."""

    http: int
    retryable: bool


ERRORS: Final[dict[ErrorCode, ErrorInfo]] = {
    "invalid_frame": ErrorInfo(400, False),
    "too_large": ErrorInfo(413, False),
    "unauthenticated": ErrorInfo(401, False),
    "forbidden": ErrorInfo(403, False),
    "not_found": ErrorInfo(404, False),
    "conflict": ErrorInfo(409, False),
    "busy": ErrorInfo(409, False),
    "rate_limited": ErrorInfo(429, True),
    "unavailable": ErrorInfo(503, True),
    "provider_error": ErrorInfo(502, False),
    "provider_overloaded": ErrorInfo(503, True),
    "context_too_long": ErrorInfo(400, False),
    "internal": ErrorInfo(500, True),
}


class ProtocolError(Exception):
    """A refusal in words meant for the peer: it never holds a secret, a trace or another user's data.

    `path` names the field at fault, `retry_after` is in seconds, `retryable` follows the table unless given.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        path: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        frame_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code: ErrorCode = code
        self.message = message
        self.path = path
        self.retry_after = retry_after
        self.retryable = ERRORS[code].retryable if retryable is None else retryable
        self.frame_id = frame_id


class Close(StrEnum):
    """What a client does after a close."""

    RECONNECT = "reconnect"
    REAUTHENTICATE = "reauthenticate"
    STOP = "stop"


class CloseInfo(NamedTuple):
    reason: str
    then: Close


CLOSE_CODES: Final[dict[int, CloseInfo]] = {
    1001: CloseInfo("the instance is draining", Close.RECONNECT),
    1003: CloseInfo("binary messages are not part of this protocol", Close.STOP),
    1009: CloseInfo("frame too large", Close.STOP),
    1012: CloseInfo("the instance restarts", Close.RECONNECT),
    4400: CloseInfo("too many invalid frames", Close.STOP),
    4401: CloseInfo("not authenticated, or expired", Close.REAUTHENTICATE),
    4403: CloseInfo("not allowed", Close.STOP),
    4408: CloseInfo("no hello, or no sign of life", Close.RECONNECT),
    4409: CloseInfo("a later attempt of this session is connected", Close.STOP),
    4429: CloseInfo("too many connections or frames", Close.RECONNECT),
}
