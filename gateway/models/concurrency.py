"""How many requests may be open at a provider at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.models.port import Finish, ModelClient, ModelPiece, ModelRequest

__all__ = ["LimitedModel", "Limiter"]


class Limiter:
    """So many places at one provider, shared by its models. Who came first gets the next one that is free; who is
    cancelled while waiting takes none, and holds up nobody."""

    def __init__(self, places: int) -> None:
        self.semaphore = asyncio.Semaphore(places)


class LimitedModel:
    """`inner`, whose requests each hold a place of `limiter` from before they are sent until the provider has answered,
    failed or been left. A request that waits has not begun: none of the inner model's timeouts runs."""

    def __init__(self, inner: ModelClient, limiter: Limiter) -> None:
        self._inner = inner
        self._limiter = limiter

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
        finish: Finish | None = None
        async with self._limiter.semaphore, aclosing(self._inner.stream(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    finish = piece
                    break
                yield piece
        if finish is not None:
            # The place is free by now: whoever takes the end may store for a while before they come back.
            yield finish

    async def close(self) -> None:
        await self._inner.close()
