from __future__ import annotations

import asyncio

import pytest

from gateway.models.fallback import FallbackModel
from gateway.models.openai import OpenAIModel
from gateway.models.port import Finish, ModelClient, ModelError, TextPiece
from gateway.models.retry import RetryingModel
from gateway.models.settings import Timeouts
from gateway.testing.openai_script import Reply, Stall, Text
from gateway.testing.openai_server import FakeOpenAI
from protocol.frames import Usage
from tests.gateway.models.scripted_model import HELLO, ScriptedModel, collect, failure, said, settle


async def refused(model: ModelClient) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await collect(model)
    return caught.value


async def test_a_primary_that_answers_is_not_named_and_nobody_else_is_asked() -> None:
    other = ScriptedModel(said("other"), name="other")
    model = FallbackModel(ScriptedModel(said("primary")), [other])
    assert await collect(model) == [TextPiece("primary"), Finish("stop")]
    assert other.requests == []


@pytest.mark.parametrize("retryable", [True, False])
async def test_the_first_that_answers_is_named(retryable: bool) -> None:
    primary = ScriptedModel([failure(retryable=retryable)])
    second = ScriptedModel([failure()], name="second")
    third = ScriptedModel([TextPiece("third"), Finish("length", Usage(input_tokens=1, output_tokens=2))], name="third")
    fourth = ScriptedModel(said("fourth"), name="fourth")
    model = FallbackModel(primary, [second, third, fourth])
    assert await collect(model) == [
        TextPiece("third"),
        Finish("length", Usage(input_tokens=1, output_tokens=2), "third"),
    ]
    assert [len(one.requests) for one in (primary, second, third, fourth)] == [1, 1, 1, 0]
    assert third.requests == [HELLO]
    assert (primary.running, second.running, third.running) == (0, 0, 0)


async def test_each_request_begins_with_the_primary() -> None:
    primary = ScriptedModel([failure()], said("back"))
    model = FallbackModel(primary, [ScriptedModel(said("other"), name="other")])
    assert (await collect(model))[0] == TextPiece("other")
    assert await collect(model) == [TextPiece("back"), Finish("stop")]


async def test_a_name_that_a_model_gave_itself_is_kept() -> None:
    router = ScriptedModel([TextPiece("x"), Finish("stop", model="inside")], name="router")
    model = FallbackModel(ScriptedModel([failure()]), [router])
    assert (await collect(model))[-1] == Finish("stop", model="inside")


@pytest.mark.parametrize("late", ["primary", "other"])
async def test_an_error_after_the_first_piece_goes_through(late: str) -> None:
    broken = [TextPiece("half"), failure("provider_overloaded")]
    primary = ScriptedModel(broken if late == "primary" else [failure()])
    other, last = ScriptedModel(broken, name="other"), ScriptedModel(said("last"), name="last")
    assert (await refused(FallbackModel(primary, [other, last]))).code == "provider_overloaded"
    assert last.requests == []


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([failure(retryable=False), failure("internal", retryable=False)], 0),
        ([failure(retryable=False), failure(retry_after=3)], 1),
        ([failure(), failure("provider_overloaded")], 0),
        ([failure(), failure("context_too_long", retryable=False)], 1),
    ],
)
async def test_where_all_fail_the_most_promising_error_is_raised(errors: list[ModelError], expected: int) -> None:
    models = [ScriptedModel([error]) for error in errors]
    assert await refused(FallbackModel(models[0], models[1:])) is errors[expected]


async def test_what_is_too_long_for_one_is_asked_of_larger_ones_only() -> None:
    primary = ScriptedModel([failure("context_too_long", retryable=False)])
    same = ScriptedModel(said("same"), name="same", context_window=100)
    larger = ScriptedModel(said("larger"), name="larger", context_window=200)
    assert await collect(FallbackModel(primary, [same, larger])) == [
        TextPiece("larger"),
        Finish("stop", model="larger"),
    ]
    assert same.requests == []


async def test_what_is_too_long_for_all_is_the_askers_to_shorten() -> None:
    primary = ScriptedModel([failure("context_too_long", retryable=False)])
    larger = ScriptedModel([failure()], name="larger", context_window=200)
    small = ScriptedModel(said("small"), name="small", context_window=50)
    assert (await refused(FallbackModel(primary, [larger, small]))).code == "context_too_long"
    assert small.requests == []


async def test_who_leaves_ends_the_request_that_runs() -> None:
    never = asyncio.Event()
    other = ScriptedModel([TextPiece("half"), never], name="other")
    pieces = FallbackModel(ScriptedModel([failure()]), [other]).stream(HELLO)
    async with asyncio.timeout(20):
        assert await anext(pieces) == TextPiece("half")
        assert other.running == 1
        await pieces.aclose()
    assert other.running == 0


async def test_a_cancelled_request_asks_nobody_else() -> None:
    primary, other = ScriptedModel([asyncio.Event()]), ScriptedModel(said("other"), name="other")
    task = asyncio.create_task(collect(FallbackModel(primary, [other])))
    async with asyncio.timeout(20):
        await settle()
        assert primary.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (primary.running, other.requests) == (0, [])


async def test_it_stands_for_the_primary() -> None:
    primary, other = ScriptedModel(), ScriptedModel(name="other", context_window=5)
    model: ModelClient = FallbackModel(primary, [other])
    assert (model.name, model.context_window, model.max_tokens) == ("main", 100, 10)
    await model.close()
    assert (primary.shut, other.shut) == (True, False)


async def test_retries_and_timeouts_come_before_the_fallback() -> None:
    limits = Timeouts(first_token=0.2, between_tokens=0.2)
    async with FakeOpenAI(default=lambda _: Reply(steps=[Stall()])) as slow, FakeOpenAI(Reply.text("hi")) as good:
        first = RetryingModel(OpenAIModel("first", "m", "k", slow.base_url, timeouts=limits), attempts=3, base_delay=0)
        second = RetryingModel(OpenAIModel("second", "m", "k", good.base_url), attempts=3)
        pieces = await collect(FallbackModel(first, [second]))
        assert pieces[0] == TextPiece("hi")
        assert isinstance(pieces[-1], Finish)
        assert pieces[-1].model == "second"
        assert (len(slow.requests), len(good.requests)) == (3, 1)
        good.replies.append(Reply(steps=[Text("half"), Stall()]))
        second = OpenAIModel("second", "m", "k", good.base_url, timeouts=limits)
        assert "stopped answering" in (await refused(FallbackModel(first, [second]))).message
        assert (len(slow.requests), len(good.requests)) == (6, 2)
