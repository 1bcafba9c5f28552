"""The Anthropic adapter against a real model behind a real llama.cpp server's `/v1/messages`: `make test-model`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from gateway.models.anthropic import AnthropicModel
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
from gateway.models.settings import Timeouts
from gateway.testing.llama_server import CONTEXT_WINDOW, MODEL, STOP, llama_server
from protocol.frames import ToolSpec

STOPS = {"stop_sequences": [STOP]}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with llama_server() as url:
        yield url


def local(base_url: str, *, extra: dict[str, Any] = STOPS, **options: Any) -> AnthropicModel:
    options = {"context_window": CONTEXT_WINDOW, "max_tokens": 64, "temperature": 0, **options}
    return AnthropicModel("local", MODEL, None, base_url, extra=extra, **options)


@pytest.fixture
async def model(base_url: str) -> AsyncGenerator[AnthropicModel, None]:
    model = local(base_url)
    yield model
    await model.close()


async def ask(model: AnthropicModel, *inputs: ModelInput, tools: tuple[ToolSpec, ...] = ()) -> list[ModelPiece]:
    request = ModelRequest(inputs=inputs, tools=tools)
    async with asyncio.timeout(120), aclosing(model.stream(request)) as pieces:
        return [piece async for piece in pieces]


async def test_it_answers_in_pieces_and_counts_its_tokens(model: AnthropicModel) -> None:
    *pieces, end = await ask(model, TextInput("user", "What is the capital of France?"))
    texts = [piece.text for piece in pieces if isinstance(piece, TextPiece)]
    assert len(texts) > 3
    assert "Paris" in "".join(texts)
    assert isinstance(end, Finish)
    assert end.reason == "stop"
    assert end.usage is not None
    assert end.usage.input_tokens > 5
    assert end.usage.output_tokens >= len(texts)


async def test_a_prefix_that_was_read_before_is_counted_as_cached(model: AnthropicModel) -> None:
    inputs = [TextInput("system", "Answer with one word. " * 20), TextInput("user", "What is the capital of Italy?")]
    first, second = [(await ask(model, *inputs))[-1] for _ in range(2)]
    assert isinstance(first, Finish)
    assert isinstance(second, Finish)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.cached_tokens > 50
    assert second.usage.input_tokens == first.usage.input_tokens


async def test_its_limit_is_told(base_url: str) -> None:
    model = local(base_url, max_tokens=5, extra={})
    *_, end = await ask(model, TextInput("user", "Count from one to one hundred."))
    await model.close()
    assert isinstance(end, Finish)
    assert end.reason == "length"
    assert end.usage is not None
    assert end.usage.output_tokens == 5


async def test_a_whole_conversation_is_taken(model: AnthropicModel) -> None:
    *pieces, end = await ask(
        model,
        TextInput("system", "Be brief."),
        TextInput("user", "Hello."),
        AssistantInput("Hello. How can I help?"),
        TextInput("user", "What is the capital of France?"),
        TextInput("system", "Answer with one word."),
    )
    assert any(isinstance(piece, TextPiece) for piece in pieces)
    assert isinstance(end, Finish)
    assert end.reason == "stop"


async def test_a_request_that_was_left_frees_its_place(base_url: str) -> None:
    """Six long answers are left after a word, on a server with two places; the seventh request is still served."""
    model = local(base_url, max_tokens=1500, temperature=1, extra={"ignore_eos": True})
    request = ModelRequest(inputs=[TextInput("user", "Tell me a long story.")])
    async with asyncio.timeout(60):
        for _ in range(6):
            pieces = model.stream(request)
            assert isinstance(await anext(pieces), TextPiece)
            await pieces.aclose()
        async with aclosing(model.stream(request)) as pieces:
            assert isinstance(await anext(pieces), TextPiece)
    await model.close()


async def test_a_slow_first_token_ends_at_its_limit(base_url: str) -> None:
    model = local(base_url, timeouts=Timeouts(first_token=0.01))
    with pytest.raises(ModelError) as caught:
        await ask(model, TextInput("user", "word " * 1500))
    await model.close()
    assert (caught.value.code, caught.value.retryable) == ("provider_error", True)
    assert "stopped answering" in caught.value.message


async def test_a_conversation_that_is_too_long_is_refused(model: AnthropicModel) -> None:
    with pytest.raises(ModelError) as caught:
        await ask(model, TextInput("user", "word " * (CONTEXT_WINDOW + 100)))
    assert caught.value.code == "context_too_long"


async def test_it_calls_a_tool_as_it_was_shown(model: AnthropicModel) -> None:
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
    first, *_, end = await ask(model, *inputs, TextInput("user", "What is 5*3?"), tools=(tool,))
    assert isinstance(first, CallReady)
    assert (first.tool, first.problem) == ("calculator", None)
    assert (first.parameters["a"], first.parameters["b"]) == (5, 3)
    assert isinstance(end, Finish)
