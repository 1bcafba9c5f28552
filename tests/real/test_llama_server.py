"""The adapter against a real model behind a real llama.cpp server: `make test-model`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest

from gateway.models.openai import OpenAIModel
from gateway.models.port import (
    AssistantInput,
    CallInput,
    CallReady,
    Finish,
    ModelError,
    ModelInput,
    ModelPiece,
    ModelRequest,
    TextInput,
    TextPiece,
    ToolResultInput,
)
from gateway.testing.llama_server import CONTEXT_WINDOW, MODEL, STOP, llama_server
from protocol.frames import ToolSpec


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.fixture
async def model(base_url: str) -> AsyncGenerator[OpenAIModel, None]:
    model = OpenAIModel(
        "local",
        MODEL,
        None,
        base_url,
        context_window=CONTEXT_WINDOW,
        max_tokens=64,
        temperature=0,
        extra={"stop": [STOP]},
    )
    yield model
    await model.close()


async def ask(model: OpenAIModel, text: str) -> list[ModelPiece]:
    request = ModelRequest(inputs=[TextInput("user", text)])
    async with asyncio.timeout(120), aclosing(model.stream(request)) as pieces:
        return [piece async for piece in pieces]


async def test_it_answers_in_pieces_and_counts_its_tokens(model: OpenAIModel) -> None:
    *pieces, end = await ask(model, "What is the capital of France?")
    texts = [piece.text for piece in pieces if isinstance(piece, TextPiece)]
    assert len(texts) > 3
    assert "Paris" in "".join(texts)
    assert isinstance(end, Finish)
    assert end.reason == "stop"
    assert end.usage is not None
    assert end.usage.input_tokens > 5
    assert end.usage.output_tokens >= len(texts)


async def test_its_limit_is_told(base_url: str) -> None:
    model = OpenAIModel("local", MODEL, None, base_url, max_tokens=5, temperature=0)
    *_, end = await ask(model, "Count from one to one hundred.")
    await model.close()
    assert isinstance(end, Finish)
    assert end.reason == "length"
    assert end.usage is not None
    assert end.usage.output_tokens == 5


async def test_a_request_that_was_left_frees_its_place(base_url: str) -> None:
    """Six long answers are left after a word, on a server with two places; the seventh request is still served."""
    model = OpenAIModel("local", MODEL, None, base_url, max_tokens=1500, temperature=1, extra={"ignore_eos": True})
    request = ModelRequest(inputs=[TextInput("user", "Tell me a long story.")])
    async with asyncio.timeout(60):
        for _ in range(6):
            pieces = model.stream(request)
            assert isinstance(await anext(pieces), TextPiece)
            await pieces.aclose()
        async with aclosing(model.stream(request)) as pieces:
            assert isinstance(await anext(pieces), TextPiece)
    await model.close()


async def test_a_conversation_that_is_too_long_is_refused(model: OpenAIModel) -> None:
    with pytest.raises(ModelError) as caught:
        await ask(model, "word " * (CONTEXT_WINDOW + 100))
    assert caught.value.code == "context_too_long"


async def test_it_calls_a_tool_as_it_was_shown(model: OpenAIModel) -> None:
    number = {"type": "integer"}
    properties = {"operation": {"type": "string", "enum": ["multiply", "add"]}, "a": number, "b": number}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    tool = ToolSpec(name="calculator", description="Computes.", parameters=parameters)
    inputs: list[ModelInput] = []
    for asked, operation, a, b, result in [
        ("What is 2*4?", "multiply", 2, 4, 8),
        ("What is 6+3?", "add", 6, 3, 9),
        ("What is 7*7?", "multiply", 7, 7, 49),
    ]:
        call = CallInput(f"call_{result}", "calculator", {"operation": operation, "a": a, "b": b})
        inputs += [
            TextInput("user", asked),
            AssistantInput("", [call]),
            ToolResultInput(call.id, str(result), is_error=False),
            AssistantInput(f"It is {result}."),
        ]
    request = ModelRequest(inputs=[*inputs, TextInput("user", "What is 5*3?")], tools=[tool])
    async with asyncio.timeout(120), aclosing(model.stream(request)) as pieces:
        first, *_, end = [piece async for piece in pieces]
    assert isinstance(first, CallReady)
    assert (first.tool, first.problem) == ("calculator", None)
    assert (first.parameters["a"], first.parameters["b"]) == (5, 3)
    assert isinstance(end, Finish)
