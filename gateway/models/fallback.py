"""A model that others stand in for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog
from msgspec.structs import replace

from gateway.models.port import Finish, ModelClient, ModelError, ModelPiece, ModelRequest

__all__ = ["FallbackModel"]

_log = structlog.get_logger(__name__)


class FallbackModel:
    """`primary`, and `others` in their order where it fails before its first piece, after its own retries. The name of
    one of the others that answered is in its Finish. An error after a first piece goes through, whoever's it is.

    A model that finds the conversation too long is followed only by those with a larger window. Where all fail, the
    error is the one that promises most: that the conversation is too long, since a shorter one may be asked; else the
    first that is retryable; else the primary's.

    Window and longest answer are the primary's: the smallest would shorten every conversation for the sake of a model
    that is hardly ever asked, and one that a smaller model then finds too long is shortened by who asks.

    `others` stay their owner's, who closes them.
    """

    def __init__(self, primary: ModelClient, others: Sequence[ModelClient]) -> None:
        self._primary = primary
        self._others = tuple(others)

    @property
    def name(self) -> str:
        return self._primary.name

    @property
    def context_window(self) -> int:
        return self._primary.context_window

    @property
    def max_tokens(self) -> int:
        return self._primary.max_tokens

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        failures: list[ModelError] = []
        too_small = 0
        for model in (self._primary, *self._others):
            if model.context_window <= too_small:
                continue
            begun = False
            try:
                async with aclosing(model.stream(request)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield self._named(piece, model)
                return
            except ModelError as error:
                if begun:
                    raise
                failures.append(error)
                if error.code == "context_too_long":
                    too_small = model.context_window
                _log.warning("a model failed before it answered", model=model.name, code=error.code, asked=self.name)
        raise min(failures, key=_rank)

    async def close(self) -> None:
        await self._primary.close()

    def _named(self, piece: ModelPiece, model: ModelClient) -> ModelPiece:
        if isinstance(piece, Finish) and model is not self._primary and piece.model is None:
            return replace(piece, model=model.name)
        return piece


def _rank(error: ModelError) -> int:
    if error.code == "context_too_long":
        return 0
    return 1 if error.retryable else 2
