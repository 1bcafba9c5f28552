"""A model of tests that does what it is told: pieces, errors, and events to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from gateway.models.port import Finish, ModelClient, ModelError, ModelPiece, ModelRequest, TextPiece
from protocol.errors import ErrorCode

__all__ = ["HELLO", "ScriptedModel", "Step", "collect", "failure", "said", "settle"]

HELLO = ModelRequest(inputs=[], owner="ann")

Step = ModelPiece | ModelError | asyncio.Event


class ScriptedModel:
    """Each request takes the next of `tries`, the last one again and again. `running` are open, `most` were at once."""

    def __init__(self, *tries: Sequence[Step], name: str = "main", context_window: int = 100) -> None:
        self.name = name
        self.context_window = context_window
        self.max_tokens = 10
        self.requests: list[ModelRequest] = []
        self.running = 0
        self.most = 0
        self.shut = False
        self._tries = tries

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        steps = self._tries[min(len(self.requests), len(self._tries) - 1)]
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for step in steps:
                if isinstance(step, ModelError):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.running -= 1

    async def close(self) -> None:
        self.shut = True


def said(text: str) -> list[Step]:
    """A whole answer of one piece."""
    return [TextPiece(text), Finish("stop")]


def failure(
    code: ErrorCode = "provider_error", *, retryable: bool = True, retry_after: float | None = None
) -> ModelError:
    return ModelError(code, f"{code}, {retryable}", retryable=retryable, retry_after=retry_after)


async def collect(model: ModelClient, request: ModelRequest = HELLO) -> list[ModelPiece]:
    async with asyncio.timeout(20), aclosing(model.stream(request)) as pieces:
        return [piece async for piece in pieces]


async def settle() -> None:
    """Every task that can go on without I/O has done so: a round of the loop for each step that one of them takes."""
    for _ in range(20):
        await asyncio.sleep(0)
