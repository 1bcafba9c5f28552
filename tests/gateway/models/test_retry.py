from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest

from gateway.models.port import Finish, ModelClient, ModelError, ModelPiece, ModelRequest, TextPiece
from gateway.models.retry import RetryingModel

REQUEST = ModelRequest(inputs=[])
WHOLE: list[ModelPiece] = [TextPiece("hi"), Finish("stop")]


class Scripted:
    """A model whose tries are given as pieces and errors; it notes how many began, and how many were closed."""

    name = "scripted"
    context_window = 10
    max_tokens = 5

    def __init__(self, *tries: Sequence[ModelPiece | ModelError]) -> None:
        self.tries = list(tries)
        self.begun = 0
        self.closed = 0
        self.shut = False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        assert request is REQUEST
        self.begun += 1
        try:
            for piece in self.tries.pop(0):
                if isinstance(piece, ModelError):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    async def close(self) -> None:
        self.shut = True


def failure(*, retryable: bool = True, retry_after: float | None = None) -> ModelError:
    return ModelError("provider_error", "failed", retryable=retryable, retry_after=retry_after)


async def run(inner: ModelClient, naps: list[float], chance: float = 0.5) -> list[ModelPiece]:
    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    model = RetryingModel(inner, base_delay=1.0, max_delay=3.0, max_retry_after=20, random=lambda: chance, sleep=sleep)
    return [piece async for piece in model.stream(REQUEST)]


async def test_failures_before_the_first_piece_are_tried_again_with_growing_waits() -> None:
    inner, naps = Scripted([failure()], [failure()], [failure()], WHOLE), list[float]()
    assert await run(inner, naps) == WHOLE
    assert naps == [0.5, 1.0, 1.5]


async def test_the_last_failure_goes_through() -> None:
    inner, naps = Scripted(*([failure()] for _ in range(5))), list[float]()
    with pytest.raises(ModelError):
        await run(inner, naps)
    assert (inner.begun, inner.closed, len(naps)) == (4, 4, 3)


async def test_a_failure_after_the_first_piece_goes_through() -> None:
    inner, naps = Scripted([TextPiece("hi"), failure()], WHOLE), list[float]()
    with pytest.raises(ModelError):
        await run(inner, naps)
    assert (inner.begun, naps) == (1, [])


async def test_what_is_not_retryable_goes_through() -> None:
    inner, naps = Scripted([failure(retryable=False)], WHOLE), list[float]()
    with pytest.raises(ModelError):
        await run(inner, naps)
    assert (inner.begun, naps) == (1, [])


async def test_the_wait_that_the_provider_asks_for_is_kept() -> None:
    inner, naps = Scripted([failure(retry_after=7)], WHOLE), list[float]()
    assert await run(inner, naps) == WHOLE
    assert naps == [7.5]


async def test_a_wait_beyond_the_cap_is_the_users_to_decide() -> None:
    inner, naps = Scripted([failure(retry_after=21)], WHOLE), list[float]()
    with pytest.raises(ModelError) as caught:
        await run(inner, naps)
    assert caught.value.retry_after == 21
    assert naps == []


async def test_closing_the_iterator_closes_the_inner_one() -> None:
    inner = Scripted(WHOLE)
    pieces = RetryingModel(inner).stream(REQUEST)
    assert await anext(pieces) == TextPiece("hi")
    assert inner.closed == 0
    await pieces.aclose()
    assert inner.closed == 1


async def test_it_stands_for_the_inner_model() -> None:
    inner = Scripted()
    model: ModelClient = RetryingModel(inner)
    assert (model.name, model.context_window, model.max_tokens) == ("scripted", 10, 5)
    await model.close()
    assert inner.shut


async def test_what_is_put_around_the_inner_model_is_part_of_each_try() -> None:
    inner, naps = Scripted([failure()], WHOLE), list[float]()
    begun: list[int] = []

    class Counted(Scripted):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
            begun.append(len(naps))
            async for piece in inner.stream(request):
                yield piece

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    model = RetryingModel(inner, attempts=2, base_delay=1.0, random=lambda: 0.5, sleep=sleep)
    around = model.around(lambda one: Counted() if one is inner else one)
    assert [piece async for piece in around.stream(REQUEST)] == WHOLE
    assert (begun, naps) == ([0, 1], [0.5])
    await model.close()
    assert inner.shut
