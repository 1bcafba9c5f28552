from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from gateway.testing.anthropic_rules import objections
from gateway.testing.anthropic_script import (
    BlockStart,
    BlockStop,
    Call,
    Cut,
    Delay,
    Delta,
    Event,
    Failure,
    Hold,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    Raw,
    Redacted,
    Reply,
    Said,
    Shape,
    Stall,
    Thought,
    Usage,
    block_steps,
    sign,
    words,
)
from gateway.testing.anthropic_server import FakeAnthropic

HI = {"role": "user", "content": "hi"}
ASK: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [HI], "stream": True}
HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}


async def post(
    server: FakeAnthropic,
    body: dict[str, Any] = ASK,
    headers: dict[str, str] = HEADERS,
    path: str = "/v1/messages",
) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{server.base_url}{path}", json=body, headers=headers)


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for event in response.text.split("\n\n"):
        if event:
            name, data = event.split("\n")
            found.append((name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))))
    return found


async def test_steps_become_events() -> None:
    steps = [
        MessageStart(Usage(3, 4, 1, 2)),
        Ping(),
        BlockStart({"type": "text", "text": ""}),
        Delta("a"),
        Delta("b", "thinking", 1),
        Delta("c", "signature", 1),
        Delta("{", "partial_json", 2),
        BlockStop(2),
        Delay(0),
        Event("new", {"x": 1}),
        Raw(b"event: raw\ndata: 2\n\n"),
        MessageDelta("tool_use", Usage(3, 4, thinking_tokens=2)),
        MessageStop(),
        Failure("api_error", "oh"),
    ]
    async with FakeAnthropic(Reply(steps=steps)) as server:
        response = await post(server)
    assert response.headers["content-type"] == "text/event-stream"
    (start, message), *others = events(response)
    assert start == "message_start"
    assert message["message"]["role"] == "assistant"
    assert message["message"]["model"] == "m"
    assert message["message"]["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 1,
        "output_tokens": 1,
    }
    ended = {"stop_reason": "tool_use", "stop_sequence": None}
    counts = {"output_tokens": 4, "output_tokens_details": {"thinking_tokens": 2}}
    block = "content_block_delta"
    assert others == [
        ("ping", {"type": "ping"}),
        ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": start_text()}),
        (block, {"type": block, "index": 0, "delta": {"type": "text_delta", "text": "a"}}),
        (block, {"type": block, "index": 1, "delta": {"type": "thinking_delta", "thinking": "b"}}),
        (block, {"type": block, "index": 1, "delta": {"type": "signature_delta", "signature": "c"}}),
        (block, {"type": block, "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{"}}),
        ("content_block_stop", {"type": "content_block_stop", "index": 2}),
        ("new", {"x": 1}),
        ("raw", 2),
        ("message_delta", {"type": "message_delta", "delta": ended, "usage": counts}),
        ("message_stop", {"type": "message_stop"}),
        ("error", {"type": "error", "error": {"type": "api_error", "message": "oh"}}),
    ]


def start_text() -> dict[str, Any]:
    return {"type": "text", "text": ""}


async def test_an_answer_is_made_of_blocks() -> None:
    reply = Reply.of(Thought("so it is"), Redacted("xyz"), Said("one two"), Call("f", {"a": 1}))
    async with FakeAnthropic(reply, Reply.text("a", stop_reason="max_tokens")) as server:
        sent = events(await post(server))
        limited = events(await post(server))
    starts = [event["content_block"] for name, event in sent if name == "content_block_start"]
    assert [(start["type"], place) for place, start in enumerate(starts)] == [
        ("thinking", 0),
        ("redacted_thinking", 1),
        ("text", 2),
        ("tool_use", 3),
    ]
    assert (starts[1]["data"], starts[3]["name"], starts[3]["input"]) == ("xyz", "f", {})
    deltas = [event["delta"] for name, event in sent if name == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "so it is"
    assert [delta["signature"] for delta in deltas if "signature" in delta] == [sign("so it is")]
    assert [delta["text"] for delta in deltas if "text" in delta] == ["one ", "two"]
    assert sent[-2][1]["delta"]["stop_reason"] == "tool_use"
    assert limited[-2][1]["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("shape", ["anthropic", "whole", "start"])
@pytest.mark.parametrize("arguments", [{}, {"a": 'é "quoted"\n😀'}])
def test_the_arguments_of_a_call_are_whole(shape: Shape, arguments: dict[str, Any]) -> None:
    start, *deltas, stop = block_steps(Call("f", arguments, shape), 3)
    assert isinstance(start, BlockStart)
    assert stop == BlockStop(3)
    parts = [delta.text for delta in deltas if isinstance(delta, Delta)]
    assert len(parts) == len(deltas)
    assert json.loads("".join(parts) or "{}") == ({} if shape == "start" else arguments)
    assert start.block["input"] == (arguments if shape == "start" else {})
    if shape == "anthropic":
        assert parts[0] == ""
        assert bool(parts[1:]) == bool(arguments)
        assert not arguments or any(part.endswith(("\\", "\\u", "\\u0")) for part in parts)


def test_words_are_exact() -> None:
    assert "".join(step.text for step in words(" a  b\nc ")) == " a  b\nc "
    assert words("") == []


async def test_requests_are_recorded_and_replies_used_up() -> None:
    async with FakeAnthropic(Reply.text("one two")) as server:
        await post(server)
        second = await post(server)
        await server.wait_for_requests(2)
        assert not server.replies
        assert server.requests[0].body == ASK
        assert server.requests[0].path == "/v1/messages"
        assert not server.requests[0].abandoned
    assert second.status_code == 500


async def test_a_default_answers_what_is_not_scripted() -> None:
    async with FakeAnthropic(default=lambda request: Reply.text(str(request.body["model"]))) as server:
        assert events(await post(server))[3][1]["delta"]["text"] == "m"


async def test_failures_have_a_status_and_a_body() -> None:
    async with FakeAnthropic(Reply.failure(429, "rate_limit_error", "Slow down.", retry_after="3")) as server:
        response = await post(server)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json() == {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}}


async def test_a_cut_breaks_the_body() -> None:
    async with FakeAnthropic(Reply.script([Cut()])) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(server)


async def test_a_client_that_goes_away_is_noticed() -> None:
    async with FakeAnthropic(Reply(steps=[Stall()])) as server, asyncio.timeout(20):
        task = asyncio.create_task(post(server))
        await server.wait_for_requests(1)
        task.cancel()
        await server.requests[0].ended.wait()
        assert server.requests[0].abandoned
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_hold_waits_for_its_event() -> None:
    event = asyncio.Event()
    async with FakeAnthropic(Reply(steps=[Hold(event), MessageStop()])) as server, asyncio.timeout(20):
        task = asyncio.create_task(post(server))
        await server.wait_for_requests(1)
        assert not server.requests[0].ended.is_set()
        event.set()
        assert [name for name, _ in events(await task)] == ["message_stop"]


async def test_a_step_of_another_script_is_an_error() -> None:
    async with FakeAnthropic(Reply(steps=[MessageStart(), "oops"])) as server:  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
        with pytest.raises(httpx.RemoteProtocolError):
            await post(server)


# ---- what the real API would refuse


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"path": "/v1/chat/completions"}, 404, "not_found_error"),
        ({"headers": {"anthropic-version": "2023-06-01"}}, 401, "authentication_error"),
        ({"headers": {"authorization": "Bearer k"}}, 400, "invalid_request_error"),
        ({"body": {"model": "m", "messages": [HI]}}, 400, "invalid_request_error"),
    ],
)
async def test_a_refused_request_leaves_the_script_as_it_is(fields: dict[str, Any], status: int, kind: str) -> None:
    async with FakeAnthropic(Reply.text("a")) as server:
        response = await post(server, **fields)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        assert server.refusals == [response.json()["error"]["message"]]
        assert len(server.replies) == 1
        assert (await post(server)).status_code == 200
    async with FakeAnthropic(Reply.text("a"), strict=False) as server:
        assert (await post(server, **fields)).status_code == 200


def use(*ids: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "f", "input": {}} for id in ids]}


def results(*ids: str, before: str = "", after: str = "") -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [{"type": "tool_result", "tool_use_id": id} for id in ids]
    said = [[{"type": "text", "text": text}] if text else [] for text in (before, after)]
    return {"role": "user", "content": [*said[0], *blocks, *said[1]]}


def thought(text: str, signature: str | None = None) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": sign(text) if signature is None else signature}


def thinking(message: dict[str, Any], text: str = "hm", **fields: Any) -> dict[str, Any]:
    return {**message, "content": [{**thought(text), **fields}, *message["content"]]}


AGAIN = {"role": "assistant", "content": "a"}
OPERATOR = {"role": "system", "content": [{"type": "text", "text": "s"}]}
ENABLED: dict[str, Any] = {"max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 1024}}
MARKED = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
SCHEMA = {"type": "object"}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def returned(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The result of the call `a`, of these blocks."""
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": list(content), **more}]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [HI, AGAIN, HI], "system": "s"},
        {"messages": [HI, OPERATOR, AGAIN, HI, OPERATOR], "system": [{"type": "text", "text": "s"}]},
        {"messages": [HI, use("a", "b"), results("b", "a", after="x"), use("c"), results("c")]},
        {"messages": [HI, use("a"), results("a"), OPERATOR, use("b"), results("b")]},
        {"messages": [{"role": "user", "content": [MARKED] * 4}]},
        {"messages": [HI, use("a"), returned({"type": "text", "text": "see"}, PNG)]},
        {"messages": [HI, use("a"), returned({"type": "text", "text": "no"}, is_error=True)]},
        {"tools": [{"name": "f", "input_schema": SCHEMA}, {"name": "g", "input_schema": SCHEMA}]},
        {**ENABLED, "temperature": 1},
        {**ENABLED, "messages": [HI, thinking(use("a")), results("a"), use("b"), results("b")]},
        {**ENABLED, "messages": [HI, use("a"), results("a"), AGAIN, HI]},
        {"messages": [HI, thinking(use("a")), results("a")], "thinking": {"type": "adaptive"}},
    ],
)
def test_what_the_api_takes(fields: dict[str, Any]) -> None:
    assert not list(objections({**ASK, **fields}))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "at least one message"),
    ({"messages": [AGAIN, HI]}, 'must use the "user" role'),
    ({"messages": [HI, AGAIN]}, "prefill"),
    ({"messages": [HI, HI]}, "roles must alternate"),
    ({"messages": [HI, OPERATOR, HI]}, "roles must alternate"),
    ({"messages": [HI, {"role": "tool", "content": "a"}]}, "Unexpected role"),
    ({"messages": [HI, AGAIN, OPERATOR, HI]}, "immediately follow"),
    ({"messages": [{"role": "user", "content": []}]}, "non-empty content"),
    ({"messages": [{"role": "user", "content": " "}]}, "non-whitespace"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-whitespace"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"media_type": "image/svg+xml"}}]}]},
        "media_type",
    ),
    ({"system": [{"type": "text", "text": ""}]}, "non-empty"),
    ({"messages": [HI, AGAIN, AGAIN, HI]}, "roles must alternate"),
    ({"system": [{"type": "image"}]}, "Input should be 'text'"),
    ({"messages": [HI, use("a"), HI]}, "without `tool_result`"),
    ({"messages": [HI, use("a", "b"), results("a")]}, "without `tool_result`"),
    ({"messages": [HI, use("a")]}, "without `tool_result`"),
    ({"messages": [HI, AGAIN, results("a")]}, "unexpected `tool_use_id`"),
    ({"messages": [HI, use("a"), results("a", before="x")]}, "must come first"),
    ({"messages": [HI, use("a.b"), results("a.b")]}, "should match pattern"),
    ({"messages": [HI, use("a"), results("a"), use("a"), results("a")]}, "must be unique"),
    ({"messages": [{"role": "user", "content": [MARKED] * 5}]}, "Found 5"),
    ({"messages": [HI, thinking(use("a"), cache_control={}), results("a")]}, "cannot be set for thinking"),
    ({"tools": [{"name": "a.b", "input_schema": SCHEMA}]}, "should match pattern"),
    ({"tools": [{"name": "a", "input_schema": SCHEMA}] * 2}, "must be unique"),
    ({"tools": [{"name": "a", "input_schema": {}}]}, "input_schema"),
    ({"tools": [{"name": "a", "input_schema": {**SCHEMA, "properties": {"$a": {}}}}]}, "Property keys"),
    ({"tools": [{"name": "a", "input_schema": {**SCHEMA, "anyOf": [{}]}}]}, "at the top level"),
    ({"messages": [HI, use("a"), returned({"type": "audio"})]}, "does not match"),
    ({"messages": [HI, use("a"), returned({"type": "image", "source": {"media_type": "image/bmp"}})]}, "media_type"),
    ({"messages": [HI, use("a"), returned({"type": "text", "text": " "})]}, "non-whitespace"),
    ({"messages": [HI, use("a"), returned(PNG, is_error=True)]}, "must be type `text` if `is_error`"),
    ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "greater than or equal to 1024"),
    ({"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 2000}}, "must be greater than"),
    ({**ENABLED, "temperature": 0}, "temperature"),
    ({**ENABLED, "messages": [HI, use("a"), results("a")]}, "Expected `thinking`"),
    (
        {**ENABLED, "messages": [HI, use("a"), results("a"), thinking(use("b")), results("b")]},
        "Expected `thinking`",
    ),
    ({"messages": [HI, thinking(use("a"), signature="x"), results("a")]}, "Invalid `signature`"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_the_api_refuses(fields: dict[str, Any], words: str) -> None:
    assert any(words in objection for objection in objections({**ASK, **fields}))


def test_older_models_know_no_role_of_the_system() -> None:
    body = {**ASK, "messages": [HI, OPERATOR]}
    assert list(objections(body, system_role=False)) == ["role 'system' is not supported on this model"]
    assert any("max_tokens" in objection for objection in objections({"messages": [HI], "model": "m"}))
