from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.models.demo import DemoModel
from gateway.models.demo_script import DEMO_NOTICE
from gateway.models.port import (
    AssistantInput,
    CallInput,
    CallReady,
    Finish,
    ModelClient,
    ModelInput,
    ModelPiece,
    ModelRequest,
    TextInput,
    TextPiece,
    ToolResultInput,
)
from protocol.frames import ImagePart, ResourcePart, TextPart, ToolSpec, Usage

TOOLS = [ToolSpec(name=name, description="", parameters={}) for name in ("calculator", "countdown", "lookup")]


async def ask(
    *inputs: ModelInput | str, tools: Sequence[ToolSpec] = TOOLS, model: ModelClient | None = None
) -> list[ModelPiece]:
    request = ModelRequest(
        inputs=[TextInput("user", item) if isinstance(item, str) else item for item in inputs], tools=tools
    )
    return [piece async for piece in (model or DemoModel(delay=0)).stream(request)]


def text(pieces: list[ModelPiece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))


def calls(pieces: list[ModelPiece]) -> list[CallReady]:
    return [piece for piece in pieces if isinstance(piece, CallReady)]


def called(tool: str, parameters: dict[str, Any], content: str, *, is_error: bool = False) -> list[ModelInput]:
    return [AssistantInput("", [CallInput("t1", tool, parameters)]), ToolResultInput("t1", content, is_error)]


async def test_echo_comes_word_by_word_and_is_exact() -> None:
    pieces = await ask("two  words\nand more ")
    assert text(pieces) == f"{DEMO_NOTICE} You said: two  words\nand more"
    assert [piece.text for piece in pieces if isinstance(piece, TextPiece)][-4:] == ["two  ", "words\n", "and ", "more"]
    assert pieces[-1] == Finish("stop", Usage(input_tokens=4, output_tokens=11))


async def test_images_of_a_result_are_reported() -> None:
    png = ImagePart(mime_type="image/png", data="AAAA")
    said: list[ModelInput] = [AssistantInput("", [CallInput("t1", "draw", {})])]
    said.append(ToolResultInput("t1", "Two:", is_error=False, images=(png, png)))
    pieces = [piece async for piece in DemoModel(delay=0).stream(ModelRequest(inputs=said))]
    assert text(pieces) == "draw answered: Two: [image/png] [image/png]"


async def test_the_same_request_has_the_same_answer() -> None:
    assert await ask("hello") == await ask("hello")


async def test_parts_that_are_not_text_are_named() -> None:
    parts = [TextPart(text="see"), ImagePart(mime_type="image/png", data=""), ResourcePart(uri="docs://a")]
    assert text(await ask(TextInput("user", parts))).endswith("You said: see [image/png] [docs://a]")


@pytest.mark.parametrize(
    ("asked", "parameters"),
    [
        ("calc 5 * 3", {"operation": "multiply", "a": 5, "b": 3}),
        ("CALC 5-3", {"operation": "subtract", "a": 5, "b": 3}),
        ("calc 1.5 + -2", {"operation": "add", "a": 1.5, "b": -2}),
        ("calc 1 / 4", {"operation": "divide", "a": 1, "b": 4}),
        (" calc 2 ^ 8 ", {"operation": "power", "a": 2, "b": 8}),
    ],
)
async def test_calc_calls_the_calculator(asked: str, parameters: dict[str, Any]) -> None:
    pieces = await ask(asked)
    assert pieces[:-1] == [CallReady("calculator", parameters)]
    assert isinstance(pieces[-1], Finish)


@pytest.mark.parametrize("content", ["15", "15.0", '{"result": 15}', '{"result": 15.0}'])
async def test_the_result_is_reported(content: str) -> None:
    asked = {"operation": "multiply", "a": 5, "b": 3}
    assert text(await ask("calc 5 * 3", *called("calculator", asked, content))) == "5 * 3 = 15"


async def test_a_result_that_is_no_number_is_reported_as_it_stands() -> None:
    asked = {"operation": "power", "a": 5.5, "b": 3}
    assert text(await ask("calc 5.5 ^ 3", *called("calculator", asked, "a lot"))) == "5.5 ^ 3 = a lot"


async def test_an_error_is_reported_as_one() -> None:
    asked = {"operation": "divide", "a": 5, "b": 0}
    inputs = called("calculator", asked, "division by zero", is_error=True)
    assert text(await ask("calc 5 / 0", *inputs)) == "calculator failed: division by zero"


async def test_count_calls_the_countdown() -> None:
    assert calls(await ask("count 5")) == [CallReady("countdown", {"count": 5})]


async def test_call_calls_any_tool_and_reports_it() -> None:
    assert calls(await ask('call lookup {"key": [1, "x"]}')) == [CallReady("lookup", {"key": [1, "x"]})]
    assert calls(await ask("call lookup")) == [CallReady("lookup", {})]
    assert text(await ask("call lookup", *called("lookup", {}, '{"found": 1}'))) == 'lookup answered: {"found": 1}'


async def test_a_call_a_line_calls_them_in_one_step() -> None:
    pieces = await ask('call lookup {"key": 1}\ncall countdown\n call calculator {\n "call": "call lookup"\n}')
    assert calls(pieces) == [
        CallReady("lookup", {"key": 1}),
        CallReady("countdown", {}),
        CallReady("calculator", {"call": "call lookup"}),
    ]
    assert not text(pieces)


@pytest.mark.parametrize("written", ["{broken", "[1]", "7", "[" * 100_000])
async def test_parameters_that_are_no_object_are_not_sent(written: str) -> None:
    pieces = await ask(f"call lookup {written}")
    assert not calls(pieces)
    assert "must be a JSON object" in text(pieces)


@pytest.mark.parametrize("asked", ["calc 1 + 1", "count 2", "call nothing {}"])
async def test_a_tool_that_is_not_offered_is_not_called(asked: str) -> None:
    pieces = await ask(asked, tools=())
    assert not calls(pieces)
    assert "I have no tool named" in text(pieces)


async def test_both_goes_on_talking_around_its_calls() -> None:
    pieces = await ask("both")
    assert [call.tool for call in calls(pieces)] == ["calculator", "countdown"]
    kinds = ["call" if isinstance(piece, CallReady) else "text" for piece in pieces[:-1]]
    runs = [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]
    assert runs == ["text", "call", "text", "call", "text"]


async def test_both_reports_both() -> None:
    first = CallInput("a", "calculator", {"operation": "multiply", "a": 6, "b": 7})
    second = CallInput("b", "countdown", {"count": 3})
    answered = [ToolResultInput("a", "42", is_error=False), ToolResultInput("b", "done", is_error=False)]
    pieces = await ask("both", AssistantInput("Talking.", [first, second]), *answered)
    assert text(pieces) == "6 * 7 = 42 countdown answered: done"
    assert not calls(pieces)


async def test_steering_after_a_result_is_heard_too() -> None:
    inputs = called("lookup", {}, "found")
    assert text(await ask("call lookup", *inputs, "and now?")) == (
        f"lookup answered: found {DEMO_NOTICE} You said: and now?"
    )
    assert [call.tool for call in calls(await ask("call lookup", *inputs, "count 1"))] == ["countdown"]


async def test_nothing_new_is_said_to_be_so() -> None:
    assert text(await ask(TextInput("system", "Be brief."))) == f"{DEMO_NOTICE} Nothing new was said."


async def test_long_streams_so_many_words() -> None:
    pieces = await ask("long 1000")
    assert text(pieces).split() == [str(number) for number in range(1, 1001)]
    assert len(pieces) == 1001


async def test_long_is_capped() -> None:
    model = DemoModel(delay=0)
    words = 0
    async for piece in model.stream(ModelRequest(inputs=[TextInput("user", "long 999999999")])):
        words += isinstance(piece, TextPiece)
        if words == 100:
            break
    assert words == 100
    assert text(await ask("long 5", model=DemoModel(delay=0, max_tokens=3))) == "1 2 3 "


async def test_max_tokens_cuts_the_answer() -> None:
    pieces = await ask("long 5", model=DemoModel(delay=0, max_tokens=3))
    assert pieces[-1] == Finish("length", Usage(input_tokens=2, output_tokens=3))


@pytest.mark.parametrize(("late", "naps"), [(0.0, [0.02, 0.02, 0.02, 0.02]), (0.03, [0.02, 0.0, 0.0, 0.0])])
async def test_words_are_due_by_the_clock_so_that_delays_do_not_add_up(late: float, naps: list[float]) -> None:
    now, seen = 100.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        seen.append(round(seconds, 6))
        now += seconds + late

    await ask("long 4", model=DemoModel(delay=0.02, clock=lambda: now, sleep=sleep))
    assert seen == naps


async def test_without_a_delay_the_loop_still_gets_its_turn() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        await ask("long 50")
        ticking.cancel()
    assert ticks >= 50


async def test_it_is_a_model_client() -> None:
    model: ModelClient = DemoModel("mine", context_window=100, max_tokens=10)
    assert (model.name, model.context_window, model.max_tokens) == ("mine", 100, 10)
    await model.close()


async def test_usage_counts_calls_and_results() -> None:
    pieces = await ask("calc 5 * 3", *called("lookup", {}, "a b"))
    assert pieces[-1] == Finish("stop", Usage(input_tokens=7, output_tokens=4))
