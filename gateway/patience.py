"""Waits for a store that is away: a turn that has begun is not given up for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from stores.ports import Unavailable

__all__ = ["patiently"]

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)
_FIRST, _LONGEST = 0.05, 2.0


async def patiently(call: Callable[[], Awaitable[_T]]) -> _T:
    """The call's answer, asked for again for as long as it raises Unavailable."""
    wait = _FIRST
    while True:
        try:
            return await call()
        except Unavailable as error:
            _log.warning("the store is away", wait=wait, reason=str(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST)
