from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.models.port import (
    CallReady,
    Finish,
    ModelClient,
    ModelError,
    ModelRequest,
    TextInput,
    TextPiece,
)
from gateway.models.response_cache import MAX_ENTRY_BYTES, CachingModel
from protocol.frames import ToolSpec, Usage
from stores.memory import MemoryCache
from stores.ports import Cache, Unavailable
from tests.gateway.models.scripted_model import HELLO, ScriptedModel, Step, collect, failure, said

HIT = Finish("stop", Usage(input_tokens=0, output_tokens=0, cached_responses=1))
TOOL = ToolSpec("look", "Looks.", {"type": "object"})
ANSWER: list[Step] = [
    TextPiece("hm", "reasoning"),
    TextPiece("m", "reasoning"),
    TextPiece("Hel"),
    TextPiece("lo"),
    CallReady("look", {"at": ["é", 1.5, None]}),
    CallReady("look", {}),
    TextPiece(" there"),
    Finish("stop", Usage(input_tokens=3, output_tokens=4)),
]


def caching(
    inner: ModelClient, cache: Cache | None = None, *, seconds: float = 60, shared: bool = False, settings: str = "f"
) -> CachingModel:
    return CachingModel(inner, cache or MemoryCache(), seconds, shared, settings)


async def test_the_second_answer_is_the_first_ones() -> None:
    inner = ScriptedModel(ANSWER, said("other"))
    model = caching(inner)
    assert await collect(model) == ANSWER
    assert await collect(model) == [
        TextPiece("hmm", "reasoning"),
        TextPiece("Hello"),
        CallReady("look", {"at": ["é", 1.5, None]}),
        CallReady("look", {}),
        TextPiece(" there"),
        HIT,
    ]
    assert len(inner.requests) == 1


async def test_a_long_answer_comes_in_pieces_that_leave_others_their_turn() -> None:
    text = "".join(chr(97 + n % 26) for n in range(10_000)) + "\N{GRINNING FACE}" * 300
    model = caching(ScriptedModel(said(text)))
    await collect(model)
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    pieces = await collect(model)
    other.cancel()
    texts = [piece.text for piece in pieces if isinstance(piece, TextPiece)]
    assert "".join(texts) == text
    assert 0 < min(map(len, texts)) <= max(map(len, texts)) <= 1024
    assert rounds >= len(texts) - 1
    assert pieces[-1] == HIT


@pytest.mark.parametrize("shared", [False, True])
async def test_it_is_another_principals_only_where_it_is_shared(shared: bool) -> None:
    inner = ScriptedModel(said("for ann"), said("for bob"))
    model = caching(inner, shared=shared)
    await collect(model)
    pieces = await collect(model, replace(HELLO, owner="bob"))
    assert pieces[0] == TextPiece("for ann" if shared else "for bob")
    assert (pieces[-1] == HIT) is shared


@pytest.mark.parametrize("shared", [False, True])
async def test_what_is_nobodys_is_kept_only_where_it_is_everybodys(shared: bool) -> None:
    inner = ScriptedModel(said("hi"))
    model = caching(inner, shared=shared)
    for _ in range(2):
        await collect(model, ModelRequest(inputs=[]))
    assert len(inner.requests) == (1 if shared else 2)


async def test_other_inputs_tools_settings_and_names_are_other_requests() -> None:
    inner, cache = ScriptedModel(said("hi")), MemoryCache()
    model = caching(inner, cache)
    for request in (HELLO, replace(HELLO, inputs=[TextInput("user", "x")]), replace(HELLO, tools=[TOOL])):
        assert (await collect(model, request))[-1] != HIT
        assert (await collect(model, request))[-1] == HIT
    assert (await collect(caching(inner, cache, settings="g")))[-1] != HIT
    assert (await collect(caching(ScriptedModel(said("hi"), name="other"), cache)))[-1] != HIT


async def test_a_fresh_answer_is_asked_for_and_takes_the_place_of_the_one_before() -> None:
    model = caching(ScriptedModel(said("first"), said("second")))
    await collect(model)
    assert await collect(model, replace(HELLO, fresh=True)) != [TextPiece("first"), HIT]
    assert await collect(model) == [TextPiece("second"), HIT]


async def test_it_is_kept_for_its_time() -> None:
    now = 0.0
    cache = MemoryCache(clock=lambda: now)
    inner = ScriptedModel(said("hi"))
    model = caching(inner, cache, seconds=10)
    await collect(model)
    now = 9.0
    assert (await collect(model))[-1] == HIT
    now = 11.0
    assert (await collect(model))[-1] != HIT


@pytest.mark.parametrize(
    "answer",
    [
        [TextPiece("cut"), Finish("length")],
        [TextPiece("of another"), Finish("stop", model="other")],
        [TextPiece("without an end")],
        [Finish("stop")],
        [TextPiece("only thought", "reasoning"), Finish("stop")],
        [CallReady("look", {}, "is not JSON"), TextPiece("x"), Finish("stop")],
        [TextPiece("x" * (MAX_ENTRY_BYTES + 1)), TextPiece("x"), Finish("stop")],
        [*[TextPiece("x" * 1000)] * 263, Finish("stop")],
        [CallReady("look", {"x": "y" * MAX_ENTRY_BYTES}), TextPiece("x"), Finish("stop")],
        [TextPiece("\n" * (MAX_ENTRY_BYTES - 100)), Finish("stop")],
    ],
    ids=["length", "fallback", "no end", "empty", "reasoning", "problem", "long", "many", "long call", "escaped"],
)
async def test_what_is_no_whole_answer_is_not_kept(answer: Sequence[Step]) -> None:
    model = caching(ScriptedModel(answer, said("next")))
    assert await collect(model) == answer
    assert await collect(model) == said("next")


async def test_an_error_goes_through_and_nothing_of_it_is_kept() -> None:
    model = caching(ScriptedModel([TextPiece("half"), failure()], said("next")))
    with pytest.raises(ModelError):
        await collect(model)
    assert await collect(model) == said("next")


async def test_who_leaves_ends_the_request_and_nothing_is_kept() -> None:
    inner = ScriptedModel([TextPiece("half"), asyncio.Event()], said("next"))
    model = caching(inner)
    pieces = model.stream(HELLO)
    async with asyncio.timeout(20):
        assert await anext(pieces) == TextPiece("half")
        await pieces.aclose()
    assert inner.running == 0
    assert await collect(model) == said("next")


async def test_it_is_kept_before_its_end_is_given_on() -> None:
    model = caching(ScriptedModel(said("hi"), said("other")))
    pieces = model.stream(HELLO)
    assert await anext(pieces) == TextPiece("hi")
    assert await anext(pieces) == Finish("stop")
    await pieces.aclose()
    assert await collect(model) == [TextPiece("hi"), HIT]


async def test_of_equal_requests_at_once_each_is_asked_and_the_last_is_kept() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    inner = ScriptedModel([first, *said("one")], [second, *said("two")])
    model = caching(inner)
    tasks = [asyncio.create_task(collect(model)) for _ in range(2)]
    async with asyncio.timeout(20):
        second.set()
        assert await tasks[1] == said("two")
        first.set()
        assert await tasks[0] == said("one")
    assert await collect(model) == [TextPiece("one"), HIT]


class BadCache(MemoryCache):
    """A cache that is away, hangs or gives garbage."""

    def __init__(self, fault: Literal["away", "hangs"] | bytes) -> None:
        super().__init__()
        self._fault = fault

    async def get(self, key: str) -> bytes | None:
        return self._fault if isinstance(self._fault, bytes) else await self._fail()

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        if not isinstance(self._fault, bytes):
            await self._fail()

    async def _fail(self) -> Any:
        if self._fault == "away":
            raise Unavailable("the words of a driver")
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "fault",
    ["away", "hangs", b"{", b"", b"\xff", b'[["text","\xff","text"]]', b'[["text",1,"text"]]', b'{"a":1}', b'[["x"]]'],
)
async def test_a_cache_that_fails_is_as_good_as_none(
    fault: Literal["away", "hangs"] | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.models.response_cache._PATIENCE", 0.05)
    inner = ScriptedModel(said("secret words"))
    with capture_logs() as logs:
        assert await collect(caching(inner, BadCache(fault))) == said("secret words")
    assert logs
    assert all(log["log_level"] == "warning" and log["model"] == "main" for log in logs)
    assert not any("words" in str(value) or "response:" in str(value) for log in logs for value in log.values())


async def test_nothing_is_logged_where_all_is_well() -> None:
    model = caching(ScriptedModel(ANSWER))
    with capture_logs() as logs:
        await collect(model)
        await collect(model)
    assert logs == []


async def test_it_stands_for_the_inner_model() -> None:
    inner = ScriptedModel()
    model: ModelClient = caching(inner)
    assert (model.name, model.context_window, model.max_tokens) == ("main", 100, 10)
    await model.close()
    assert inner.shut
