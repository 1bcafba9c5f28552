"""A model whose failures before the first piece are tried again."""

from __future__ import annotations

import asyncio
import copy
import random as _random
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway.models.port import ModelClient, ModelError, ModelPiece, ModelRequest

__all__ = ["RetryingModel"]


class RetryingModel:
    """`inner`, asked up to `attempts` times while nothing of its answer was given on.

    The wait before try n+1 is a random part of `base_delay` * 2**(n-1), at most `max_delay`; where the provider says
    how long to wait, it is that plus a random part of `base_delay`. A provider that asks for more than
    `max_retry_after` is not waited for: its error goes through, as does any error after the first piece, one that is
    not retryable, and the last one. All times are in seconds; `random` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        inner: ModelClient,
        *,
        attempts: int = 4,
        base_delay: float = 0.5,
        max_delay: float = 8.0,
        max_retry_after: float = 30.0,
        random: Callable[[], float] = _random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner = inner
        self._attempts = attempts
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._max_retry_after = max_retry_after
        self._random = random
        self._sleep = sleep

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def context_window(self) -> int:
        return self._inner.context_window

    @property
    def max_tokens(self) -> int:
        return self._inner.max_tokens

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        attempt = 1
        while True:
            pieces = self._inner.stream(request)
            begun = False
            try:
                async for piece in pieces:
                    begun = True
                    yield piece
                return
            except ModelError as error:
                if begun or attempt >= self._attempts or not self._worth_waiting(error):
                    raise
                delay = self._delay(attempt, error)
            finally:
                await pieces.aclose()
            await self._sleep(delay)
            attempt += 1

    async def close(self) -> None:
        await self._inner.close()

    def around(self, wrap: Callable[[ModelClient], ModelClient]) -> RetryingModel:
        """The same with what `wrap` makes of the inner model in its place: a part of each try, and of no wait."""
        other = copy.copy(self)
        other._inner = wrap(self._inner)
        return other

    def _worth_waiting(self, error: ModelError) -> bool:
        return error.retryable and (error.retry_after or 0.0) <= self._max_retry_after

    def _delay(self, attempt: int, error: ModelError) -> float:
        if error.retry_after is not None:
            return error.retry_after + self._random() * self._base_delay
        return self._random() * min(self._max_delay, self._base_delay * 2 ** (attempt - 1))
