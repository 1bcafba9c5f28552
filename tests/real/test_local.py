"""A real model on this machine, and behind a gateway that is told nothing but its name: `make test-model`."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from gateway.models.local import LocalModel
from gateway.models.local_engine import Engine
from gateway.models.local_weights import is_gguf, model_file
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
from protocol.frames import ImagePart, ToolSpec
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire, check_contiguous, spoken

ROOT = Path(__file__).parent.parent.parent
WINDOW = 2048
LONG = ModelRequest(inputs=[TextInput("user", "Tell me a long story.")])
ENDLESS: dict[str, Any] = {"ignore_eos": True, "stop": []}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncGenerator[LocalModel, None]:
    model = LocalModel(context_window=WINDOW, max_tokens=64, temperature=0)
    yield model
    await model.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endless() -> AsyncGenerator[LocalModel, None]:
    """One that goes on to the end of its window, so that it must be stopped."""
    model = LocalModel(context_window=WINDOW, max_tokens=WINDOW - 100, extra=ENDLESS)
    yield model
    await model.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(model: LocalModel, text: str) -> list[ModelPiece]:
    request = ModelRequest(inputs=[TextInput("user", text)])
    async with asyncio.timeout(120), aclosing(model.stream(request)) as pieces:
        return [piece async for piece in pieces]


def text_of(pieces: list[ModelPiece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))


async def test_it_answers_in_pieces_and_counts_its_tokens(model: LocalModel) -> None:
    *pieces, end = await ask(model, "What is the capital of France?")
    assert len(pieces) > 3
    assert "Paris" in text_of(pieces)
    assert "User:" not in text_of(pieces)
    assert isinstance(end, Finish)
    assert end.reason == "stop"
    assert end.usage is not None
    assert end.usage.input_tokens > 5
    assert end.usage.output_tokens >= len(pieces)


async def test_two_are_answered_at_once_and_a_third_waits(endless: LocalModel) -> None:
    async with asyncio.timeout(120):
        async with aclosing(endless.stream(LONG)) as one, aclosing(endless.stream(LONG)) as two:
            assert isinstance(await anext(one), TextPiece)
            assert isinstance(await anext(two), TextPiece)
            third = asyncio.ensure_future(anext(waiting := endless.stream(LONG)))
            for _ in range(10):
                await anext(one)
                await anext(two)
            assert not third.done()
        assert isinstance(await third, TextPiece)
        await waiting.aclose()


async def test_a_request_that_was_left_frees_its_place(endless: LocalModel) -> None:
    """Six endless answers are left after a word, on a model with two places; the seventh is still served."""
    async with asyncio.timeout(120):
        for _ in range(7):
            pieces = endless.stream(LONG)
            assert isinstance(await anext(pieces), TextPiece)
            await pieces.aclose()


async def test_an_answer_that_was_left_is_generated_no_further(endless: LocalModel) -> None:
    pieces = endless.stream(LONG)
    async with asyncio.timeout(120):
        await anext(pieces)
        await pieces.aclose()
        (process,) = [child for child in psutil.Process().children() if "local_server" in " ".join(child.cmdline())][
            -1:
        ]
        while True:
            before = process.cpu_times()
            await asyncio.sleep(0.5)
            after = process.cpu_times()
            if after.user - before.user < 0.1:
                break


async def test_a_cancelled_task_ends_its_answer(endless: LocalModel) -> None:
    begun = asyncio.Event()

    async def listen() -> None:
        async with aclosing(endless.stream(LONG)) as pieces:
            async for _ in pieces:
                begun.set()

    async with asyncio.timeout(120):
        tasks = [asyncio.create_task(listen()) for _ in range(4)]
        await begun.wait()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        async with aclosing(endless.stream(LONG)) as pieces:
            assert isinstance(await anext(pieces), TextPiece)


async def test_a_conversation_that_is_too_long_is_refused(model: LocalModel) -> None:
    with pytest.raises(ModelError) as caught:
        await ask(model, "word " * (WINDOW + 100))
    assert caught.value.code == "context_too_long"


async def test_an_image_is_refused_in_words(model: LocalModel) -> None:
    picture = ModelRequest(inputs=[TextInput("user", [ImagePart(mime_type="image/png", data="AAAA")])])
    with pytest.raises(ModelError, match="can't look at images") as caught:
        async with aclosing(model.stream(picture)) as pieces:
            await anext(pieces)
    assert not caught.value.retryable


async def test_what_it_is_wrongly_configured_with_is_refused() -> None:
    model = LocalModel(context_window=WINDOW, max_tokens=8, extra={"response_format": {"type": "no such"}})
    with pytest.raises(ModelError, match="check its settings") as caught:
        await ask(model, "Hello")
    assert not caught.value.retryable
    await model.close()


async def test_it_calls_a_tool_as_it_was_shown(model: LocalModel) -> None:
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


async def test_many_first_requests_are_one_load_that_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Engine] = []

    class Counted(Engine):
        def __init__(self, file: Path | None, context_window: int, slots: int) -> None:
            super().__init__(file, context_window, slots)
            loads.append(self)

    monkeypatch.setattr("gateway.models.local.Engine", Counted)
    model = LocalModel(context_window=WINDOW, max_tokens=4, slots=4)
    asked = [asyncio.create_task(ask(model, "Hello")) for _ in range(4)]
    loop = asyncio.get_running_loop()
    longest, last = 0.0, loop.time()
    while not loads:
        await asyncio.sleep(0.01)
        longest, last = max(longest, loop.time() - last), loop.time()
    assert longest < 1
    await asyncio.gather(*asked)
    assert len(loads) == 1
    await model.close()


async def test_a_load_that_takes_too_long_fails_the_request_and_goes_on() -> None:
    model = LocalModel(context_window=WINDOW, max_tokens=4, timeouts=Timeouts(first_token=0.001))
    with pytest.raises(ModelError, match="still being loaded") as caught:
        await ask(model, "Hello")
    assert caught.value.retryable
    # While it is loaded, and once more.
    await model.close()
    await model.close()
    with pytest.raises(ModelError, match="was ended"):
        await ask(model, "Hello")


async def test_answers_fail_when_it_is_closed() -> None:
    model = LocalModel(context_window=WINDOW, max_tokens=WINDOW - 100, extra=ENDLESS)
    async with asyncio.timeout(120), aclosing(model.stream(LONG)) as pieces:
        assert isinstance(await anext(pieces), TextPiece)
        await model.close()
        with pytest.raises(ModelError) as caught:
            async for _ in pieces:
                pass
    assert caught.value.code == "provider_error"


async def test_a_process_that_died_is_begun_again() -> None:
    model = LocalModel(context_window=WINDOW, max_tokens=WINDOW - 100, extra=ENDLESS)
    async with asyncio.timeout(120):
        async with aclosing(model.stream(LONG)) as pieces:
            assert isinstance(await anext(pieces), TextPiece)
            server = psutil.Process().children()[-1]
            server.kill()
            with pytest.raises(ModelError, match="was ended") as caught:
                async for _ in pieces:
                    pass
            assert caught.value.retryable
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
        async with aclosing(model.stream(LONG)) as pieces:
            assert isinstance(await anext(pieces), TextPiece)
    await model.close()


async def test_nobody_else_can_reach_it() -> None:
    engine = await asyncio.to_thread(Engine, None, WINDOW, 1)
    assert engine.path is not None
    folder = Path(engine.path).parent
    server = psutil.Process().children()[-1]
    assert folder.stat().st_mode & 0o077 == 0
    assert not [open for open in server.net_connections("tcp") if open.status == psutil.CONN_LISTEN]
    await asyncio.to_thread(engine.free)
    assert not folder.exists()


async def test_where_the_path_of_a_socket_is_too_long_a_port_wants_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    engine = await asyncio.to_thread(Engine, None, WINDOW, 1)
    assert engine.path is None
    assert engine.url.startswith("http://127.0.0.1:")
    await asyncio.to_thread(engine.free)
    model = LocalModel(context_window=WINDOW, max_tokens=8)
    assert isinstance((await ask(model, "Hello"))[-1], Finish)
    await model.close()


async def test_a_file_that_is_no_model_is_told_in_words(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(1000))
    model = LocalModel("mine", damaged)
    with pytest.raises(ModelError, match=r"mine can't be loaded; its file may be damaged") as caught:
        await ask(model, "Hello")
    assert not caught.value.retryable
    # The file may be mended meanwhile.
    damaged.unlink()
    damaged.symlink_to(model_file())
    assert is_gguf(damaged)
    assert isinstance((await ask(model, "Hello"))[-1], Finish)
    await model.close()


PROGRAM = """
import asyncio, sys
from gateway.models.local import LocalModel
from gateway.models.port import ModelRequest, TextInput

async def main(how):
    model = LocalModel(context_window=2048, max_tokens=1900, extra={"ignore_eos": True, "stop": []})
    pieces = model.stream(ModelRequest(inputs=[TextInput("user", "Tell me a long story.")]))
    if how == "loading":
        asking = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0.05)
        asking.cancel()
        await model.close()
        return
    await anext(pieces)
    if how == "closed":
        await pieces.aclose()
        await model.close()
    elif how == "streaming":
        await model.close()

asyncio.run(main(sys.argv[1]))
print("the end", flush=True)
"""


@pytest.mark.parametrize("how", ["closed", "streaming", "loading", "never closed"])
async def test_the_process_ends(how: str) -> None:
    command = [sys.executable, "-c", PROGRAM, how]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")


async def test_a_gateway_that_is_told_the_name_alone_answers(tmp_path: Path) -> None:
    script = [sys.executable, "-m", "gateway.cli", "serve", "--model", "local"]
    async with GatewayProcess(tmp_path, script=script) as gateway:
        async with Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello(attempt=1)
            await wire.ask("message", id="m", content="What is the capital of France?", context_id="chat")
            end = await wire.wait(lambda frame: frame["type"] == "turn_end", seconds=120)
            events = wire.events("chat")
            check_contiguous(events)
            answer = next(e for e in events if e["type"] == "message" and e["role"] == "assistant")
            assert answer["content"] == spoken(events, answer["id"])
            assert end["status"] == "complete"
            assert end["usage"]["output_tokens"] > 0
        gateway.terminate()
        assert await gateway.died() in (0, -signal.SIGTERM)
    assert "Traceback" not in gateway.log()
