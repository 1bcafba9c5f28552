from __future__ import annotations

import asyncio

import pytest

from gateway.models.concurrency import LimitedModel, Limiter
from gateway.models.openai import OpenAIModel
from gateway.models.port import Finish, ModelClient, ModelError, TextPiece
from gateway.models.retry import RetryingModel
from gateway.models.settings import Timeouts
from gateway.testing.openai_script import Finish as Finished
from gateway.testing.openai_script import Hold, Reply, Stall, words
from gateway.testing.openai_server import FakeOpenAI
from tests.gateway.models.scripted_model import HELLO, ScriptedModel, collect, failure, said, settle


async def test_no_more_requests_than_places_and_all_are_answered() -> None:
    go = asyncio.Event()
    inner = ScriptedModel([go, *said("hi")])
    model = LimitedModel(inner, Limiter(3))
    tasks = [asyncio.create_task(collect(model)) for _ in range(10)]
    async with asyncio.timeout(20):
        await settle()
        assert inner.running == 3
        go.set()
        assert await asyncio.gather(*tasks) == [[TextPiece("hi"), Finish("stop")]] * 10
    assert (inner.most, inner.running) == (3, 0)


async def test_models_of_one_limiter_share_its_places_and_who_came_first_is_first() -> None:
    limiter = Limiter(1)
    order: list[str] = []
    gates = {name: asyncio.Event() for name in "abcd"}

    async def ask(name: str) -> None:
        await collect(LimitedModel(ScriptedModel([gates[name], *said(name)]), limiter))
        order.append(name)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(ask(name))
            await settle()
        for name in "dcba":
            # The later ones are ready before, and still wait for those that came before them.
            assert order == []
            gates[name].set()
            await settle()
    assert order == ["a", "b", "c", "d"]


async def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    go = asyncio.Event()
    inner = ScriptedModel([go, *said("hi")])
    model = LimitedModel(inner, Limiter(1))
    first, gone, last = (asyncio.create_task(collect(model)) for _ in range(3))
    async with asyncio.timeout(20):
        await settle()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        go.set()
        await asyncio.gather(first, last)
    assert len(inner.requests) == 2


async def test_who_is_cancelled_as_a_place_comes_free_passes_it_on() -> None:
    go = asyncio.Event()
    inner = ScriptedModel([go, *said("hi")])
    model = LimitedModel(inner, Limiter(1))
    first = asyncio.create_task(collect(model))
    await settle()
    gone, last = asyncio.create_task(collect(model)), asyncio.create_task(collect(model))
    async with asyncio.timeout(20):
        await settle()
        go.set()
        await first
        # By now the place is the next one's, who has not run since.
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await last
    assert inner.running == 0


@pytest.mark.parametrize("how", ["left", "cancelled", "failed", "ended"])
async def test_a_place_is_free_again_however_the_request_ends(how: str) -> None:
    never = asyncio.Event()
    scripts = {
        "left": [TextPiece("half"), never],
        "cancelled": [TextPiece("half"), never],
        "failed": [TextPiece("half"), failure()],
        "ended": said("half"),
    }
    model = LimitedModel(ScriptedModel(scripts[how], said("next")), Limiter(1))
    pieces = model.stream(HELLO)
    async with asyncio.timeout(20):
        assert await anext(pieces) == TextPiece("half")
        if how == "left":
            await pieces.aclose()
        elif how == "cancelled":
            task = asyncio.ensure_future(anext(pieces))
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "failed":
            with pytest.raises(ModelError):
                await anext(pieces)
        else:
            # Whoever holds the end may take their time: the place is free before.
            assert await anext(pieces) == Finish("stop")
        assert await collect(model) == [TextPiece("next"), Finish("stop")]
        await pieces.aclose()


async def test_no_place_is_held_while_a_try_waits_for_the_next() -> None:
    waiting, go = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await go.wait()

    limiter = Limiter(1)
    flaky = RetryingModel(ScriptedModel([failure()], said("again")), sleep=sleep)
    first = asyncio.create_task(collect(flaky.around(lambda inner: LimitedModel(inner, limiter))))
    async with asyncio.timeout(20):
        await waiting.wait()
        other = LimitedModel(ScriptedModel(said("other")), limiter)
        assert (await collect(other))[0] == TextPiece("other")
        go.set()
        assert (await first)[0] == TextPiece("again")


async def test_the_first_token_timeout_begins_with_the_place() -> None:
    limits = Timeouts(first_token=0.3, between_tokens=20)
    held = asyncio.Event()

    long = Reply(steps=[*words("long answer"), Hold(held), Finished()])
    async with asyncio.timeout(20), FakeOpenAI(long, Reply.text("hi"), Reply(steps=[Stall()])) as server:
        model = LimitedModel(OpenAIModel("m", "m", "k", server.base_url, timeouts=limits), Limiter(1))
        first, second = model.stream(HELLO), asyncio.create_task(collect(model))
        assert await anext(first) == TextPiece("long ")
        # Longer than the second request may take once it has begun.
        await asyncio.sleep(limits.first_token * 2)
        assert (len(server.requests), second.done()) == (1, False)
        held.set()
        rest = [piece async for piece in first]
        assert isinstance(rest[-1], Finish)
        assert (await second)[0] == TextPiece("hi")
        # And there it runs.
        with pytest.raises(ModelError, match="stopped answering"):
            await collect(model)
        await model.close()


async def test_it_stands_for_the_inner_model() -> None:
    inner = ScriptedModel()
    model: ModelClient = LimitedModel(inner, Limiter(1))
    assert (model.name, model.context_window, model.max_tokens) == ("main", 100, 10)
    await model.close()
    assert inner.shut


async def test_an_answer_without_an_end_stays_one() -> None:
    assert await collect(LimitedModel(ScriptedModel([TextPiece("x")]), Limiter(1))) == [TextPiece("x")]
