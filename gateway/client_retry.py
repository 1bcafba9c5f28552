"""Whether and when the client connects again after a close (docs/protocol.md, section 5). No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from protocol.errors import CLOSE_CODES, Close
from protocol.frames import Error, GoAway

__all__ = ["Retry", "Stop", "Wait"]

_UNAUTHORIZED: Final = 401
_RETRYABLE_STATUS: Final = frozenset({408, 425, 429})
_TOO_MANY: Final = 4429
_SETTLED_SECONDS: Final = 5.0


class Wait(Struct, frozen=True):
    """Connect again after so many seconds, with new credentials where `renew`."""

    seconds: float
    renew: bool = False


class Stop(Struct, frozen=True):
    """Don't connect again. `code` is a close code or an HTTP status, None where there was neither."""

    code: int | None
    reason: str


class Retry:
    """Exponential backoff with full jitter: after the n-th failure in a row a random part of `base` * 2^n seconds, of
    `cap` at most. `random` gives numbers from 0 to 1; `renewable` says whether new credentials can be had, of which
    `max_denied` in a row are tried."""

    def __init__(
        self,
        random: Callable[[], float],
        *,
        renewable: bool,
        base: float = 0.5,
        cap: float = 30.0,
        max_denied: int = 3,
    ) -> None:
        self._random = random
        self._renewable = renewable
        self._base = base
        self._cap = cap
        self._max_denied = max_denied
        self._failures = 0
        self._denied = 0

    def closed(self, code: int | None, error: Error | None, goaway: GoAway | None, lived: float) -> Wait | Stop:
        """After a socket that was ready for `lived` seconds (0: never); `error` is the last one without an id."""
        if lived:
            self._denied = 0
        if lived > _SETTLED_SECONDS:
            self._failures = 0
        info = CLOSE_CODES.get(code) if code is not None else None
        if code is not None and info is not None:
            reason = error.message if error is not None else info.reason
            if info.then is Close.STOP:
                return Stop(code, reason)
            if info.then is Close.REAUTHENTICATE:
                return self._deny(code, reason)
        wait = self.failed().seconds
        if goaway is not None:
            return Wait(self._random() * goaway.retry_after)
        if error is not None and error.retry_after is not None and (code == _TOO_MANY or not lived):
            return Wait(error.retry_after + wait)
        return Wait(wait)

    def refused(self, status: int) -> Wait | Stop:
        """After an upgrade that was refused with this HTTP status."""
        if status == _UNAUTHORIZED:
            return self._deny(status, "the gateway refused the credentials")
        if status >= 500 or status in _RETRYABLE_STATUS:
            return self.failed()
        return Stop(status, "the gateway refused the connection")

    def failed(self) -> Wait:
        """After a connection that did not come about."""
        limit = min(self._cap, self._base * 2 ** min(self._failures, 32))
        self._failures += 1
        return Wait(self._random() * limit)

    def _deny(self, code: int, reason: str) -> Wait | Stop:
        self._denied += 1
        if not self._renewable or self._denied > self._max_denied:
            return Stop(code, reason)
        # The first renewal need not wait: most often a token has just expired.
        return Wait(0.0 if self._denied == 1 else self.failed().seconds, renew=True)
