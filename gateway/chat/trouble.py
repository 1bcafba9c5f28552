"""What ends a chat, as one line for its user. No I/O."""

from __future__ import annotations

from typing import Final

from gateway.chat.api import Unreachable
from gateway.chat.words import one_line
from gateway.client_errors import ClientError, Disconnected, Refused

__all__ = ["TROUBLE", "explain"]

TROUBLE: Final = (ClientError, Unreachable, ValueError)

_DENIED: Final = frozenset({401, 4401})
_WHAT_TO_DO: Final = (
    "make a key with 'tidegate keys create --subject me', then 'TIDEGATE_TOKEN=<the key> tidegate chat'; "
    "or give the URL with the ticket that 'tidegate serve' printed"
)


def explain(error: Exception, url: str) -> str:
    """What happened, and what can be done. `url` holds no ticket."""
    match error:
        case Refused(code="unauthenticated"):
            return _line(f"{error.message}: {_WHAT_TO_DO}")
        case Refused():
            return _line(f"refused: {error.message}")
        case Disconnected() if error.code in _DENIED:
            return _line(f"{url} refused the credentials ({error.reason}): {_WHAT_TO_DO}")
        case Disconnected(code=None):
            cause = error.__cause__
            return _line(f"no gateway answers at {url}: {cause if cause is not None and str(cause) else error.reason}")
        case Disconnected():
            return _line(f"{url} ended the session: {error}")
        case _:
            return _line(str(error))


def _line(text: str) -> str:
    return one_line(text, 1000)
