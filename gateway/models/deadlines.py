"""How long a provider may take over each part of its answer."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.models.settings import Timeouts

__all__ = ["Answering", "next_deadline"]

_AFTER_THE_END: Final = 5.0


class Answering(Protocol):
    """An answer as far as it came: `begun` says that a part of it did, `reason` why it is over."""

    @property
    def begun(self) -> bool: ...

    @property
    def reason(self) -> str | None: ...


def next_deadline(answer: Answering, timeouts: Timeouts, before: float) -> float:
    """Until when, in the event loop's time, the next part may take; `before` is what it was for the last one. Behind
    the reason of the end nothing but the usage is waited for, and not for long."""
    now = asyncio.get_running_loop().time()
    if answer.reason is not None:
        return now + min(_AFTER_THE_END, timeouts.between_tokens)
    return now + timeouts.between_tokens if answer.begun else before
