"""A real model's answer through the gateway's socket, cut and resumed in the middle: `make test-model`."""

from __future__ import annotations

from pathlib import Path

from gateway.client import connect
from gateway.testing.llama_server import CONTEXT_WINDOW, MODEL, llama_server
from protocol.frames import Message
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire, check_contiguous, spoken

CONFIG = """
[models.local]
provider = "openai"
model = "{model}"
base_url = "{base_url}"
context_window = {window}
max_tokens = 120
temperature = 0
# A small model falls silent early: it has to go on to its limit.
extra = {{ ignore_eos = true }}
"""
QUESTION = "Tell me a long story about the sea."


async def test_an_answer_goes_on_over_a_socket_that_is_cut(tmp_path: Path) -> None:
    with llama_server() as base_url:
        config = CONFIG.format(model=MODEL, base_url=base_url, window=CONTEXT_WINDOW)
        async with GatewayProcess(tmp_path, config=config) as gateway:
            key = gateway.key()
            async with Wire(gateway.ws, key) as wire:
                session = (await wire.hello(attempt=1))["session_id"]
                ack = await wire.ask("message", id="m", content=QUESTION, context_id="chat")
                await wire.wait(lambda frame: frame["type"] == "delta" and frame["seq"] > 8, seconds=60)
                wire.abort()
                await wire.wait_closed()
                before = wire.events("chat")
            cursor = f"{ack['epoch']}:{before[-1]['seq']}"
            async with Wire(gateway.ws, key) as wire:
                resumed = await wire.hello(session_id=session, attempt=2, cursors={"chat": cursor})
                end = await wire.wait(lambda frame: frame["type"] == "turn_end", seconds=120)
                events = before + wire.events("chat")
            check_contiguous(events)
            answer = next(e for e in events if e["type"] == "message" and e["role"] == "assistant")
            assert resumed["resumed"] is True
            assert end["status"] == "complete"
            assert answer["content"] == spoken(events, answer["id"])
            assert answer["status"] == "truncated"
            assert end["usage"]["output_tokens"] >= 120
            async with connect(gateway.url, token=key) as client:
                text = "".join([piece async for piece in client.stream("What is the capital of France?", "other")])
                said = [event for event in client.transcript("other").events if isinstance(event, Message)]
            assert text == said[-1].content
            assert len(text) > 100
