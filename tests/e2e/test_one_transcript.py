"""One conversation, on every provider's wire and through every door: the same transcript, up to ids."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.testing import anthropic_script, openai_script
from gateway.testing.anthropic_server import FakeAnthropic
from gateway.testing.openai_server import FakeOpenAI
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, spoken
from tests.gateway.http.ag_ui_reader import AgUiReader
from tests.gateway.http.ai_sdk_reader import AiSdkReader

Line = tuple[Any, ...]
Door = Callable[[GatewayProcess, httpx.AsyncClient, str, str], Any]

CALL = ("calculator", {"operation": "multiply", "a": 6, "b": 7})
TRANSCRIPT: list[Line] = [
    ("user", "calc 6 * 7"),
    ("call", *CALL),
    ("result", {"result": 42}),
    ("assistant", "6 * 7 = 42"),
]
CONFIG = '[models.m]\nprovider = "{provider}"\nmodel = "m"\nbase_url = "{base_url}"\n'


# ---- the providers


@asynccontextmanager
async def demo() -> AsyncGenerator[str]:
    yield ""


@asynccontextmanager
async def openai() -> AsyncGenerator[str]:
    replies = [openai_script.Reply.calls(CALL), openai_script.Reply.text("6 * 7 = 42")]
    async with FakeOpenAI(*replies * len(DOORS)) as server:
        yield CONFIG.format(provider="openai", base_url=server.base_url)


@asynccontextmanager
async def anthropic() -> AsyncGenerator[str]:
    replies = [
        anthropic_script.Reply.of(anthropic_script.Call(*CALL)),
        anthropic_script.Reply.text("6 * 7 = 42"),
    ]
    async with FakeAnthropic(*replies * len(DOORS)) as server:
        yield CONFIG.format(provider="anthropic", base_url=server.base_url)


# ---- what is made of events


def lines(events: list[Frame]) -> list[Line]:
    found: list[Line] = []
    for event in events:
        if event["type"] == "message" and event["content"]:
            found.append((event["role"], event["content"]))
        elif event["type"] == "tool_call":
            found.append(("call", event["tool"], event["parameters"]))
        elif event["type"] == "tool_response":
            found.append(("result", event["result"]))
    return found


def frames_of(stream: str) -> list[Frame]:
    """The frames of Server-Sent Events."""
    data = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    return [json.loads(text) for text in data]


def blocks_of(stream: bytes) -> bytes:
    """Server-Sent Events without the comments and hints that are for proxies and browsers."""
    return b"".join(block + b"\n\n" for block in stream.split(b"\n\n") if block.startswith(b"data: "))


# ---- the doors


async def socket(gateway: GatewayProcess, http: httpx.AsyncClient, key: str, chat: str) -> list[Line]:
    async with Wire(gateway.ws, key) as wire:
        await wire.hello()
        events = await wire.turn("calc 6 * 7", chat)
    for event in events:
        if event["type"] == "message" and event["role"] == "assistant":
            assert event["content"] == spoken(events, event["id"])
    return lines(events)


async def events(gateway: GatewayProcess, http: httpx.AsyncClient, key: str, chat: str) -> list[Line]:
    asked = {"id": "m1", "content": "calc 6 * 7"}
    answer = await http.post(f"/v1/contexts/{chat}/messages", json=asked, headers={"Accept": "text/event-stream"})
    frames = frames_of(answer.text)
    for frame in frames:
        if frame["type"] == "message" and frame["role"] == "assistant":
            assert frame["content"] == spoken(frames, frame["id"])
    return lines(frames)


async def stream(gateway: GatewayProcess, http: httpx.AsyncClient, key: str, chat: str) -> list[Line]:
    """The whole context, read beside the socket that asks."""
    await http.post("/v1/contexts", json={"id": chat})
    read = ""
    async with Wire(gateway.ws, key) as wire, http.stream("GET", f"/v1/contexts/{chat}/stream") as answer:
        await wire.hello()
        await wire.turn("calc 6 * 7", chat)
        async for text in answer.aiter_text():
            read += text
            if '"type":"turn_end"' in read and read.endswith("\n\n"):
                break
    return lines([frame for frame in frames_of(read) if frame["type"] != "snapshot"])


async def whole(gateway: GatewayProcess, http: httpx.AsyncClient, key: str, chat: str) -> list[Line]:
    asked = {"id": "m1", "content": "calc 6 * 7"}
    answer = await http.post(f"/v1/contexts/{chat}/messages", json=asked, headers={"Accept": "application/json"})
    return lines(answer.json()["events"])


async def ag_ui(gateway: GatewayProcess, http: httpx.AsyncClient, key: str, chat: str) -> list[Line]:
    said = {"id": "m1", "role": "user", "content": "calc 6 * 7"}
    asked = {"threadId": chat, "runId": "run", "messages": [said], "tools": [], "context": []}
    answer = await http.post(
        f"/v1/contexts/{chat}/messages?format=ag-ui", json={**asked, "state": {}, "forwardedProps": {}}
    )
    assert answer.status_code == 200, answer.text
    reader = AgUiReader([dict(said)]).read(blocks_of(answer.content))
    found: list[Line] = []
    for message in reader.messages:
        if message["role"] == "tool":
            found.append(("result", json.loads(message["content"])))
        elif message.get("content"):
            found.append((message["role"], message["content"]))
        calls = message.get("toolCalls") or ()
        found += [("call", call["name"], json.loads(call["arguments"])) for call in calls]
    return found


async def ai_sdk(gateway: GatewayProcess, http: httpx.AsyncClient, key: str, chat: str) -> list[Line]:
    said = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "calc 6 * 7"}]}
    asked = {"id": chat, "messages": [said], "trigger": "submit-message"}
    answer = await http.post(f"/v1/contexts/{chat}/messages?format=ai-sdk", json=asked)
    assert answer.status_code == 200, answer.text
    reader = AiSdkReader().read(blocks_of(answer.content))
    (parts,) = reader.messages.values()
    found: list[Line] = [("user", "calc 6 * 7")]
    for part in parts:
        if part["type"] == "text" and part["text"]:
            found.append(("assistant", part["text"]))
        elif part["type"] == "tool":
            found += [("call", "calculator", part["input"]), ("result", part["output"])]
    return found


PROVIDERS = [demo, openai, anthropic]
DOORS = [socket, events, stream, whole, ag_ui, ai_sdk]


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.__name__)
async def test_the_transcript_is_the_same_everywhere(
    provider: Callable[[], AbstractAsyncContextManager[str]], tmp_path: Path
) -> None:
    async with provider() as config, GatewayProcess(tmp_path, config=config) as gateway:
        key = gateway.key()
        async with httpx.AsyncClient(base_url=gateway.url, headers={"X-API-Key": key}, timeout=30) as http:
            for door in DOORS:
                chat = f"chat_{door.__name__}"
                assert await door(gateway, http, key, chat) == TRANSCRIPT, chat
                history = (await http.get(f"/v1/contexts/{chat}/events")).json()["events"]
                assert lines(history) == TRANSCRIPT, chat
