"""What the Python client raises; all are `ClientError`."""

from __future__ import annotations

from protocol.errors import ErrorCode
from protocol.frames import Error, ErrorBody

__all__ = ["ClientError", "Disconnected", "Lost", "Refused", "TurnFailed"]


class ClientError(Exception):
    """Any failure that the client reports."""


class Refused(ClientError):
    """The gateway answered a frame with `error`: it did not store it. `retry_after` is in seconds; `path` names the
    field at fault."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retryable: bool = False,
        path: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}" + (f" (at {path})" if path else ""))
        self.code: ErrorCode = code
        self.message = message
        self.retryable = retryable
        self.path = path
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: Error) -> Refused:
        return cls(error.code, error.message, retryable=error.retryable, path=error.path, retry_after=error.retry_after)


class Disconnected(ClientError):
    """There is no connection, and there will be none: the gateway closed it for good, never answered, or the client
    was left. `code` is the close code, or the HTTP status of a refused upgrade; None where there was neither. What
    waited for an acknowledgement may have been stored."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{reason} ({code})")
        self.code = code
        self.reason = reason


class TurnFailed(ClientError):
    """The turn ended as "failed", for the reason `error` where one was given."""

    def __init__(self, error: ErrorBody | None) -> None:
        super().__init__("the turn failed" if error is None else f"{error.code}: {error.message}")
        self.error = error


class Lost(ClientError):
    """The client was away for so long that a part of the turn is in the history only (`GET /v1/contexts/{id}/events`)
    and no longer in what the gateway replays."""

    def __init__(self, context_id: str, turn_id: str) -> None:
        super().__init__(f"too much happened meanwhile in {context_id}: read the turn {turn_id} from its history")
        self.context_id = context_id
        self.turn_id = turn_id
