"""Failures as events and answers tell of them."""

from __future__ import annotations

import structlog

from protocol.errors import ErrorCode
from protocol.frames import ErrorBody
from protocol.ids import new_id

__all__ = ["error_body", "internal_error"]

_log = structlog.get_logger(__name__)


def error_body(code: ErrorCode, message: str) -> ErrorBody:
    return ErrorBody(code=code, message=message, retryable=False)


def internal_error(what: str, **where: str) -> ErrorBody:
    """Our own failure, logged with the id that the user is told."""
    error_id = new_id("err_")
    _log.exception(what, error_id=error_id, **where)
    return ErrorBody(code="internal", message=f"An internal error occurred ({error_id}).", retryable=False)
