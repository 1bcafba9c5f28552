from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from gateway.testing.openai_script import (
    CallFragment,
    Chunk,
    Cut,
    Delay,
    Done,
    Finish,
    Hold,
    Raw,
    Reasoning,
    Reply,
    Shape,
    Stall,
    Text,
    Usage,
    call_steps,
    words,
)
from gateway.testing.openai_server import FakeOpenAI

ASK: dict[str, Any] = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}


async def post(server: FakeOpenAI, body: dict[str, Any] = ASK) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{server.base_url}/chat/completions", json=body, headers={"x-trace": "1"})


def chunks(response: httpx.Response) -> list[Any]:
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [msgspec.json.decode(event) for event in events]


async def test_steps_become_chunks() -> None:
    steps = [
        Text("a"),
        Reasoning("b", "reasoning"),
        CallFragment(index=0, id="c", name="f", arguments=""),
        Finish("tool_calls"),
        Usage(3, 4, 1, 2),
        Delay(0),
        Chunk({"x": 1}),
        Raw(b"data: 2\n\n"),
        Done(),
    ]
    async with FakeOpenAI(Reply(steps=steps)) as server:
        response = await post(server)
    assert response.headers["content-type"] == "text/event-stream"
    *sent, usage, free, raw = chunks(response)
    assert [chunk["choices"][0] for chunk in sent] == [
        {"index": 0, "delta": {"content": "a"}, "finish_reason": None},
        {"index": 0, "delta": {"reasoning": "b"}, "finish_reason": None},
        {
            "index": 0,
            "delta": {
                "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
            },
            "finish_reason": None,
        },
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
    ]
    assert {chunk["object"] for chunk in sent} == {"chat.completion.chunk"}
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert (free, raw) == ({"x": 1}, 2)


async def test_requests_are_recorded_and_replies_used_up() -> None:
    async with FakeOpenAI(Reply.text("one two")) as server:
        first = await post(server, {"model": "m"})
        second = await post(server)
        await server.wait_for_requests(2)
        assert not server.replies
        assert server.requests[0].body == {"model": "m"}
        assert server.requests[0].path == "/v1/chat/completions"
        assert server.requests[0].headers["x-trace"] == "1"
        assert not server.requests[0].abandoned
    said = [chunk["choices"][0]["delta"].get("content") for chunk in chunks(first)]
    assert said == ["one ", "two", None]
    assert second.status_code == 500


async def test_a_default_answers_what_is_not_scripted() -> None:
    async with FakeOpenAI(default=lambda request: Reply.text(str(request.body["model"]))) as server:
        assert chunks(await post(server))[0]["choices"][0]["delta"] == {"content": "m"}


async def test_failures_have_a_status_and_a_body() -> None:
    async with FakeOpenAI(Reply.failure(429, "rate_limit_exceeded", "Slow down.", retry_after="3")) as server:
        response = await post(server)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_cut_breaks_the_body() -> None:
    async with FakeOpenAI(Reply(steps=[Text("a"), Cut()])) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(server)
        assert not server.requests[0].abandoned


async def test_a_client_that_goes_away_is_noticed() -> None:
    async with FakeOpenAI(Reply(steps=[Stall()])) as server, asyncio.timeout(20):
        task = asyncio.create_task(post(server))
        await server.wait_for_requests(1)
        task.cancel()
        await server.requests[0].ended.wait()
        assert server.requests[0].abandoned
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_hold_waits_for_its_event() -> None:
    event = asyncio.Event()
    async with FakeOpenAI(Reply(steps=[Hold(event), Done()])) as server, asyncio.timeout(20):
        task = asyncio.create_task(post(server))
        await server.wait_for_requests(1)
        assert not server.requests[0].ended.is_set()
        event.set()
        assert chunks(await task) == []


async def test_the_end_of_the_server_ends_its_connections() -> None:
    async with asyncio.timeout(20):
        async with FakeOpenAI(Reply(steps=[Text("a"), Stall()])) as server:
            task = asyncio.create_task(post(server))
            await server.wait_for_requests(1)
        with pytest.raises(httpx.TransportError):
            await task


@pytest.mark.parametrize("shape", ["openai", "vllm", "llama.cpp", "ollama", "unindexed"])
def test_the_arguments_of_a_call_are_whole(shape: Shape) -> None:
    steps = call_steps(shape, [("f", {"a": "some text"}), ("g", {})])
    for index, (name, arguments) in enumerate([("f", '{"a":"some text"}'), ("g", "{}")]):
        parts = [step for step in steps if step.index == index] if shape != "unindexed" else [steps[index]]
        assert parts[0].name == name
        assert "".join(str(part.arguments or "") for part in parts) == arguments


def test_words_are_exact() -> None:
    assert "".join(step.text for step in words(" a  b\nc ")) == " a  b\nc "
    assert words("") == []
