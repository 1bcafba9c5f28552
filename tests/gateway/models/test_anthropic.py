from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from gateway.models.answer_parts import MAX_ARGUMENTS
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
from gateway.testing.anthropic_script import (
    BlockStart,
    BlockStop,
    Call,
    Cut,
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
    Step,
    Thought,
    block_steps,
    start_of,
    words,
)
from gateway.testing.anthropic_script import Usage as Counted
from gateway.testing.anthropic_server import FakeAnthropic
from protocol.errors import ErrorCode
from protocol.frames import ToolSpec, Usage

KEY = "sk-ant-very-secret"
HELLO = ModelRequest(inputs=[TextInput("user", "hello")])
LOOK = ToolSpec(name="look", description="Looks.", parameters={"type": "object"})
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
SOME = Usage(input_tokens=10, output_tokens=5)


@pytest.fixture
async def server() -> AsyncGenerator[FakeAnthropic, None]:
    async with FakeAnthropic() as running:
        yield running
        assert not running.refusals


@pytest.fixture
async def model(server: FakeAnthropic) -> AsyncGenerator[AnthropicModel, None]:
    model = AnthropicModel("main", "claude-test", KEY, server.base_url)
    yield model
    await model.close()


async def collect(model: AnthropicModel, request: ModelRequest = HELLO) -> list[ModelPiece]:
    async with asyncio.timeout(20), aclosing(model.stream(request)) as pieces:
        return [piece async for piece in pieces]


async def drain(model: AnthropicModel, seen: list[ModelPiece]) -> None:
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        async for piece in pieces:
            seen.append(piece)  # noqa: PERF401 - a comprehension would lose them at the error


async def failure(model: AnthropicModel) -> tuple[list[ModelPiece], ModelError]:
    seen: list[ModelPiece] = []
    with pytest.raises(ModelError) as caught:
        await drain(model, seen)
    assert KEY not in caught.value.message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return seen, caught.value


async def answer(server: FakeAnthropic, model: AnthropicModel, *steps: Step) -> list[ModelPiece]:
    server.replies.append(Reply.script(steps))
    return await collect(model)


# ---- text, usage, the end


async def test_text_streams_and_usage_is_counted(server: FakeAnthropic, model: AnthropicModel) -> None:
    usage = Counted(input_tokens=7, output_tokens=3, cache_read=4, cache_creation=2, thinking_tokens=1)
    server.replies.append(Reply.text("one two  three", usage=usage))
    assert await collect(model) == [
        TextPiece("one "),
        TextPiece("two  "),
        TextPiece("three"),
        Finish("stop", Usage(input_tokens=13, output_tokens=3, cached_tokens=4, reasoning_tokens=1)),
    ]


async def test_counts_at_the_end_win_over_those_at_the_beginning(server: FakeAnthropic, model: AnthropicModel) -> None:
    usage = {"input_tokens": 20, "cache_read_input_tokens": None, "output_tokens": 9}
    end = Event("message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    pieces = await answer(server, model, MessageStart(Counted(cache_read=3)), end)
    assert pieces == [Finish("stop", Usage(input_tokens=23, output_tokens=9, cached_tokens=3))]


async def test_a_piece_arrives_before_the_next_one_is_sent(server: FakeAnthropic, model: AnthropicModel) -> None:
    more = asyncio.Event()
    said = [start_of(Said("")), Delta("a"), Hold(more), Delta("b"), BlockStop(), MessageDelta(), MessageStop()]
    server.replies.append(Reply.script(said))
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        assert await anext(pieces) == TextPiece("a")
        more.set()
        assert await anext(pieces) == TextPiece("b")


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [
        ("end_turn", "stop"),
        ("tool_use", "stop"),
        ("stop_sequence", "stop"),
        ("something_new", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
    ],
)
async def test_stop_reasons(server: FakeAnthropic, model: AnthropicModel, stop_reason: str, reason: Any) -> None:
    server.replies.append(Reply.text("a", stop_reason=stop_reason))
    assert await collect(model) == [TextPiece("a"), Finish(reason, SOME)]


async def test_thinking_is_reasoning(server: FakeAnthropic, model: AnthropicModel) -> None:
    server.replies.append(Reply.of(Thought("hm well"), Redacted(), Thought(""), Said("a")))
    assert (await collect(model))[:-1] == [
        TextPiece("hm ", "reasoning"),
        TextPiece("well", "reasoning"),
        TextPiece("a"),
    ]


async def test_what_servers_leave_out_or_add_is_tolerated(server: FakeAnthropic, model: AnthropicModel) -> None:
    pieces = await answer(
        server,
        model,
        Raw(b": keep-alive\n\n"),
        Ping(),
        Event("something_new", {"type": "something_new", "delta": 5}),
        Event("message_start", {"type": "message_start"}),
        Event("content_block_delta", {"type": "content_block_delta", "delta": {"text": "a"}}),
        BlockStart({"type": "text", "text": "b"}, 1),
        Event("content_block_delta", {"type": "content_block_delta"}),
        Event("content_block_delta", {"type": "content_block_delta", "index": 1, "delta": {"citation": {}}}),
        Event("content_block_start", {"type": "content_block_start"}),
        Delta("x", "partial_json"),
        Event("message_delta", {"type": "message_delta", "delta": None}),
        Event("message_delta", {"type": "message_delta", "delta": {"stop_reason": "eos"}}),
    )
    assert [piece.text for piece in pieces if isinstance(piece, TextPiece)] == ["a", "b"]
    assert isinstance(pieces[-1], Finish)


async def test_halves_of_a_character_are_joined(server: FakeAnthropic, model: AnthropicModel) -> None:
    def half(escaped: bytes) -> Raw:
        event = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}'
        return Raw(b"event: content_block_delta\ndata: " + event % escaped + b"\n\n")

    halves = [half(rb"a\ud83d"), half(rb"\ude00b"), half(rb"\ude00c\ud83d")]
    pieces = await answer(server, model, start_of(Said("")), *halves, MessageDelta())
    assert [piece.text for piece in pieces if isinstance(piece, TextPiece)] == ["a", "😀b", "�c", "�"]


async def test_an_end_without_its_last_lines_is_an_end(server: FakeAnthropic, model: AnthropicModel) -> None:
    for last in (Cut(), Raw(b"event: message_stop\ndata: {oops\n\n"), Failure()):
        assert await answer(server, model, *words("a"), MessageDelta(), last) == [TextPiece("a"), Finish("stop", SOME)]


# ---- tool calls


@pytest.mark.parametrize("shape", ["anthropic", "whole", "start"])
async def test_calls_in_the_shapes_of_real_servers(server: FakeAnthropic, model: AnthropicModel, shape: Shape) -> None:
    first, second = {"a": 5, "b": 'é😀\n"q"'}, dict[str, Any]()
    calls = [Call("calc", first, shape), Call("calc", second, shape), Call("calc", first, shape)]
    server.replies.append(Reply.of(Said("So: "), *calls))
    assert (await collect(model))[:-1] == [
        TextPiece("So: "),
        CallReady("calc", first),
        CallReady("calc", second),
        CallReady("calc", first),
    ]


async def test_text_and_calls_keep_their_order(server: FakeAnthropic, model: AnthropicModel) -> None:
    blocks = [Thought("hm"), Said("a"), Call("f"), Said("b"), Call("g", {"x": 1}), Said("c")]
    server.replies.append(Reply.of(*blocks, stop_reason="tool_use"))
    assert (await collect(model))[:-1] == [
        TextPiece("hm", "reasoning"),
        TextPiece("a"),
        CallReady("f", {}),
        TextPiece("b"),
        CallReady("g", {"x": 1}),
        TextPiece("c"),
    ]


async def test_a_model_that_changes_its_mind_has_called(server: FakeAnthropic, model: AnthropicModel) -> None:
    server.replies.append(Reply.of(Call("f", {"x": 1}), Said("No."), stop_reason="end_turn"))
    assert await collect(model) == [CallReady("f", {"x": 1}), TextPiece("No."), Finish("stop", SOME)]


async def test_a_call_is_ready_when_its_block_ends(server: FakeAnthropic, model: AnthropicModel) -> None:
    more = asyncio.Event()
    steps = [*block_steps(Call("f", {"x": 1})), Hold(more), *block_steps(Call("g"), 1), MessageDelta(), Stall()]
    server.replies.append(Reply.script(steps))
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        assert await anext(pieces) == CallReady("f", {"x": 1})
        more.set()
        assert await anext(pieces) == CallReady("g", {})


async def test_a_block_that_is_not_ended_ends_with_the_next_event(server: FakeAnthropic, model: AnthropicModel) -> None:
    first, second = block_steps(Call("f", {"x": 1})), block_steps(Call("g"), 1)
    pieces = await answer(server, model, *first[:-1], *second[:-1], MessageDelta())
    assert pieces[:-1] == [CallReady("f", {"x": 1}), CallReady("g", {})]


@pytest.mark.parametrize(
    "written",
    [
        '{"a": ',
        "[1]",
        '"x"',
        "7",
        '{"a": "\\ud800"}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param("{}" + " " * MAX_ARGUMENTS, id="long"),
    ],
)
async def test_arguments_that_are_no_object_are_a_problem(
    server: FakeAnthropic, model: AnthropicModel, written: str
) -> None:
    server.replies.append(Reply.of(Call("f", shape="whole", written=written)))
    call, end = await collect(model)
    assert isinstance(call, CallReady)
    assert (call.tool, call.parameters) == ("f", {})
    assert call.problem
    assert len(call.problem) < 500
    assert end == Finish("stop", SOME)


@pytest.mark.parametrize(("given", "parameters"), [("[1]", None), ('"{\\"x\\": 1}"', {"x": 1}), ("null", {})])
async def test_arguments_at_the_beginning_may_be_no_object(
    server: FakeAnthropic, model: AnthropicModel, given: str, parameters: dict[str, Any] | None
) -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": json.loads(given)}
    call, _ = await answer(server, model, BlockStart(block), BlockStop(), MessageDelta())
    assert isinstance(call, CallReady)
    assert (call.parameters, call.problem is None) == (parameters or {}, parameters is not None)


@pytest.mark.parametrize("written", ["", '{"a": '])
@pytest.mark.parametrize("ended", [True, False])
async def test_a_call_that_the_limit_cut_is_a_problem(
    server: FakeAnthropic, model: AnthropicModel, written: str, ended: bool
) -> None:
    steps = block_steps(Call("f", written=written))
    call, end = await answer(server, model, *(steps if ended else steps[:-1]), MessageDelta("max_tokens"))
    assert isinstance(call, CallReady)
    assert call.parameters == {}
    assert call.problem
    assert end == Finish("length", SOME)


@pytest.mark.parametrize(
    "steps",
    [
        [BlockStart({"type": "tool_use", "id": "a"})],
        [BlockStart({"type": "tool_use", "id": "a", "name": ""})],
        [Delta("{}", "partial_json")],
        [start_of(Call("f")), Delta("{}", "partial_json", index=3)],
    ],
)
async def test_a_call_without_a_name_fails(server: FakeAnthropic, model: AnthropicModel, steps: list[Step]) -> None:
    server.replies.append(Reply.script([*steps, MessageDelta()]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", True)


# ---- what is sent


async def test_a_request_has_its_headers_and_settings(server: FakeAnthropic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-the-environment")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "authorization: Bearer stolen\nx-api-key: stolen")
    extra = {"top_k": 1, "temperature": 0.1}
    for key, url in [(KEY, f"{server.base_url}/v1"), (None, server.base_url)]:
        model = AnthropicModel("main", "claude", key, url, max_tokens=99, temperature=0.5, extra=extra)
        server.replies.append(Reply.text("ok"))
        await collect(model)
        await model.close()
    first, second = server.requests
    assert first.path == second.path == "/v1/messages"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["x-api-key"] == KEY
    assert second.headers["authorization"] == "Bearer none"
    assert "x-api-key" not in second.headers
    assert first.body == {
        "model": "claude",
        "stream": True,
        "max_tokens": 99,
        "temperature": 0.1,
        "top_k": 1,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}],
            }
        ],
    }


async def test_anthropic_itself_is_given_the_key_of_the_settings(
    server: FakeAnthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.models.anthropic.ANTHROPIC_URL", server.base_url)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-the-environment")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "authorization: Bearer stolen\nx-api-key: stolen")
    model = AnthropicModel("main", "claude", KEY)
    server.replies.append(Reply.text("ok"))
    await collect(model)
    await model.close()
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "x-api-key" not in headers


async def test_marks_of_ones_own_replace_ours(server: FakeAnthropic) -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    model = AnthropicModel("main", "claude", KEY, server.base_url, extra={"cache_control": mark})
    server.replies.append(Reply.text("ok"))
    await collect(model)
    await model.close()
    body = server.requests[0].body
    assert body["cache_control"] == mark
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


@pytest.mark.parametrize("message", ["", "Input should be 'user' or 'assistant' (messages.1.role)"])
async def test_the_role_of_the_system_is_not_tried_again_where_it_was_refused(message: str) -> None:
    request = ModelRequest(
        inputs=[
            TextInput("system", "Be brief."),
            TextInput("user", "hello"),
            AssistantInput("Hi."),
            TextInput("user", "well?"),
            TextInput("system", "Be briefer."),
        ]
    )
    async with FakeAnthropic(Reply.text("a"), Reply.text("b"), system_role=False, strict=not message) as server:
        model = AnthropicModel("main", "claude", KEY, server.base_url)
        if message:
            server.replies.appendleft(Reply.failure(422, "invalid", message))
        assert (await collect(model, request))[:-1] == [TextPiece("a")]
        assert (await collect(model, request))[:-1] == [TextPiece("b")]
        await model.close()
    refused, *taken = [request.body for request in server.requests]
    assert [message["role"] for message in refused["messages"]] == ["user", "assistant", "user", "system"]
    for body in taken:
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
        assert [block["text"] for block in body["system"]] == ["Be brief.", "Be briefer."]


async def test_requests_at_once_all_learn_that_the_role_is_refused() -> None:
    request = ModelRequest(inputs=[TextInput("user", "a"), TextInput("system", "Be brief."), TextInput("user", "b")])
    async with FakeAnthropic(default=lambda _: Reply.text("ok"), system_role=False) as server:
        model = AnthropicModel("main", "claude", KEY, server.base_url)
        answers = await asyncio.gather(*(collect(model, request) for _ in range(5)))
        await model.close()
    assert [answer[0] for answer in answers] == [TextPiece("ok")] * 5


# ---- thinking in a tool loop


def returned(step: int, pieces: list[ModelPiece]) -> list[ModelInput]:
    """What of an answer comes back, with ids of ours, and results."""
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece) and piece.channel == "text")
    made = [piece for piece in pieces if isinstance(piece, CallReady)]
    calls = [CallInput(f"our.{step}:{place}", call.tool, call.parameters) for place, call in enumerate(made)]
    results = [ToolResultInput(call.id, "seen", is_error=False) for call in calls]
    return [AssistantInput(text, calls), *results]


async def loop(
    server: FakeAnthropic, model: AnthropicModel, *replies: Reply, asked: str = "look", owner: str = "me"
) -> list[ModelInput]:
    """The inputs after these answers, each with its calls answered."""
    inputs: list[ModelInput] = [TextInput("user", asked)]
    for step, reply in enumerate(replies):
        server.replies.append(reply)
        request = ModelRequest(inputs=list(inputs), tools=[LOOK], owner=owner)
        inputs += returned(step, await collect(model, request))
    return inputs


@pytest.fixture
async def thinker(server: FakeAnthropic) -> AsyncGenerator[AnthropicModel, None]:
    model = AnthropicModel("main", "claude-test", KEY, server.base_url, temperature=0.5, extra=THINKING)
    yield model
    await model.close()


async def test_thinking_goes_back_while_a_tool_loop_runs(server: FakeAnthropic, thinker: AnthropicModel) -> None:
    first = [Thought("hm 😀"), Redacted(), Said("I look. "), Call("look", {"at": "é"}), Said("And "), Call("look")]
    inputs = await loop(
        server,
        thinker,
        Reply.of(*first, stop_reason="tool_use"),
        # Without interleaved thinking a model thinks at the beginning of its turn alone.
        Reply.of(Call("look")),
        Reply.of(Said("Seen.")),
    )
    bodies = [request.body for request in server.requests]
    assert all("temperature" not in body and "thinking" in body for body in bodies)
    blocks = bodies[2]["messages"][1]["content"]
    kinds = ["thinking", "redacted_thinking", "text", "tool_use", "text", "tool_use"]
    assert [block["type"] for block in blocks] == kinds
    assert blocks[0]["thinking"] == "hm 😀"
    results = bodies[2]["messages"][2]["content"]
    assert [block["tool_use_id"] for block in results] == [blocks[3]["id"], blocks[5]["id"]]
    # What was thought in a turn that is over is not sent any more.
    server.replies.append(Reply.text("ok"))
    await collect(thinker, ModelRequest(inputs=[*inputs, TextInput("user", "thanks")], tools=[LOOK], owner="me"))
    body = server.requests[-1].body
    assert "thinking" in body
    assert not [block for message in body["messages"] for block in message["content"] if "thinking" in block["type"]]


async def test_who_steers_a_loop_does_not_end_it(server: FakeAnthropic, thinker: AnthropicModel) -> None:
    inputs = await loop(server, thinker, Reply.of(Thought("hm"), Call("look")))
    inputs.append(TextInput("user", "faster"))
    server.replies.append(Reply.of(Call("look")))
    request = ModelRequest(inputs=list(inputs), tools=[LOOK], owner="me")
    inputs += returned(1, await collect(thinker, request))
    server.replies.append(Reply.text("ok"))
    await collect(thinker, ModelRequest(inputs=inputs, tools=[LOOK], owner="me"))
    for request in server.requests[1:]:
        assert "thinking" in request.body
        assert request.body["messages"][1]["content"][0]["type"] == "thinking"


async def test_a_loop_that_another_process_began_goes_on_without_thinking(
    server: FakeAnthropic, thinker: AnthropicModel
) -> None:
    inputs = await loop(server, thinker, Reply.of(Thought("hm"), Call("look")))
    other = AnthropicModel("main", "claude-test", KEY, server.base_url, temperature=0.5, extra=THINKING)
    server.replies.append(Reply.of(Call("look")))
    request = ModelRequest(inputs=list(inputs), tools=[LOOK], owner="me")
    inputs += returned(1, await collect(other, request))
    # The one that began it does not know the second step.
    server.replies.append(Reply.text("ok"))
    await collect(thinker, ModelRequest(inputs=inputs, tools=[LOOK], owner="me"))
    await other.close()
    assert ["thinking" in request.body for request in server.requests] == [True, False, False]
    assert [request.body.get("temperature") for request in server.requests] == [None, 0.5, 0.5]


@pytest.mark.parametrize(("asked", "owner"), [("look", "you"), ("look!", "me")])
async def test_thinking_is_for_the_conversation_it_belongs_to(
    server: FakeAnthropic, thinker: AnthropicModel, asked: str, owner: str
) -> None:
    inputs = await loop(server, thinker, Reply.of(Thought("hm"), Call("look")))
    server.replies.append(Reply.text("ok"))
    inputs[0] = TextInput("user", asked)
    await collect(thinker, ModelRequest(inputs=inputs, tools=[LOOK], owner=owner))
    assert "thinking" not in server.requests[-1].body


async def test_adaptive_thinking_goes_on_with_what_is_known(server: FakeAnthropic) -> None:
    extra = {"thinking": {"type": "adaptive"}}
    first = AnthropicModel("main", "claude-test", KEY, server.base_url, extra=extra)
    other = AnthropicModel("main", "claude-test", KEY, server.base_url, extra=extra)
    inputs = await loop(server, first, Reply.of(Thought("hm"), Call("look")))
    for model in (first, other):
        server.replies.append(Reply.text("ok"))
        await collect(model, ModelRequest(inputs=inputs, tools=[LOOK], owner="me"))
        await model.close()
    assert all("thinking" in request.body for request in server.requests)
    kinds = [request.body["messages"][1]["content"][0]["type"] for request in server.requests[1:]]
    assert kinds == ["thinking", "tool_use"]


async def test_a_model_that_thinks_unasked_gets_its_thinking_back(server: FakeAnthropic, model: AnthropicModel) -> None:
    inputs = await loop(server, model, Reply.of(Thought("hm"), Call("look")))
    server.replies.append(Reply.text("ok"))
    await collect(model, ModelRequest(inputs=inputs, tools=[LOOK], owner="me"))
    assert server.requests[-1].body["messages"][1]["content"][0]["type"] == "thinking"


async def test_thinking_that_the_provider_refuses_is_left_out() -> None:
    async with FakeAnthropic() as server:
        model = AnthropicModel("main", "claude-test", KEY, server.base_url, extra=THINKING)
        inputs = await loop(server, model, Reply.of(Thought("hm", signature="forged"), Call("look")))
        server.replies.append(Reply.text("ok"))
        pieces = await collect(model, ModelRequest(inputs=inputs, tools=[LOOK], owner="me"))
        await model.close()
    assert pieces[0] == TextPiece("ok")
    assert ["thinking" in request.body for request in server.requests] == [True, True, False]
    assert len(server.refusals) == 1


async def test_settings_of_thinking_that_are_refused_are_told() -> None:
    async with FakeAnthropic() as server:
        extra = {"thinking": {"type": "enabled", "budget_tokens": 5}}
        model = AnthropicModel("main", "claude-test", KEY, server.base_url, extra=extra)
        _, error = await failure(model)
        await model.close()
    assert (error.code, error.retryable, len(server.requests)) == ("provider_error", False, 1)


async def test_what_the_providers_own_tools_did_is_not_sent_back(server: FakeAnthropic, model: AnthropicModel) -> None:
    search = BlockStart({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, 1)
    steps = [*block_steps(Thought("hm")), search, Delta('{"q', "partial_json", 1), BlockStop(1)]
    server.replies.append(Reply.script([*steps, *block_steps(Call("look"), 2), MessageDelta("tool_use")]))
    pieces = await collect(model)
    assert pieces[:-1] == [TextPiece("hm", "reasoning"), CallReady("look", {})]
    server.replies.append(Reply.text("ok"))
    await collect(model, ModelRequest(inputs=[*HELLO.inputs, *returned(0, pieces)], tools=[LOOK]))
    assert [block["type"] for block in server.requests[-1].body["messages"][1]["content"]] == ["tool_use"]


# ---- failures


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "retry_after"),
    [
        (Reply.failure(401, "authentication_error", f"invalid x-api-key {KEY}"), "provider_error", False, None),
        (Reply.failure(402, "billing_error"), "provider_error", False, None),
        (Reply.failure(403, "permission_error"), "provider_error", False, None),
        (Reply.failure(404, "not_found_error"), "provider_error", False, None),
        (Reply.failure(400, "invalid_request_error"), "provider_error", False, None),
        (
            Reply.failure(400, "invalid_request_error", "Your credit balance is too low"),
            "provider_error",
            False,
            None,
        ),
        (Reply.failure(429, "rate_limit_error", retry_after="7"), "provider_overloaded", True, 7.0),
        (Reply.failure(429, retry_after="soon"), "provider_overloaded", True, None),
        (Reply.failure(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), "provider_overloaded", True, 0.0),
        (Reply(status=429, headers={"retry-after-ms": "1500"}, body=b""), "provider_overloaded", True, 1.5),
        (Reply.failure(503, retry_after="2"), "provider_overloaded", True, 2.0),
        (Reply.failure(529, "overloaded_error"), "provider_overloaded", True, None),
        (Reply.failure(500, "api_error"), "provider_error", True, None),
        (Reply.failure(504, "timeout_error"), "provider_error", True, None),
        (Reply(status=502, content_type="text/html", body=b"<html>Bad gateway"), "provider_error", True, None),
        (Reply.failure(408), "provider_error", True, None),
        (Reply.failure(413, "request_too_large"), "context_too_long", False, None),
        (Reply.failure(400, "", "prompt is too long: 208310 tokens > 200000 maximum"), "context_too_long", False, None),
        (
            Reply.failure(400, "", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
            "context_too_long",
            False,
            None,
        ),
        (Reply.failure(400, "exceed_context_size_error"), "context_too_long", False, None),
    ],
)
async def test_refusals(
    server: FakeAnthropic,
    model: AnthropicModel,
    reply: Reply,
    code: ErrorCode,
    retryable: bool,
    retry_after: float | None,
) -> None:
    server.replies.append(reply)
    seen, error = await failure(model)
    assert (seen, error.code, error.retryable, error.retry_after) == ([], code, retryable, retry_after)
    assert "main" in error.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Cut(), "provider_error"),
        (MessageStop(), "provider_error"),
        (Raw(b"event: message_delta\ndata: {not json\n\n"), "provider_error"),
        (Raw(b"event: message_delta\ndata: \xff\xfe\n\n"), "provider_error"),
        (Event("message_delta", 42), "provider_error"),
        (Event("message_delta", None), "provider_error"),
        (Event("content_block_delta", {"type": "content_block_delta", "delta": {"text": 5}}), "provider_error"),
        (Failure("api_error", f"boom {KEY}"), "provider_error"),
        (Raw(f"event: error\ndata: boom {KEY}\n\n".encode()), "provider_error"),
        (Event("message", {"type": "error", "error": {"type": "api_error"}}), "provider_error"),
        (Failure("overloaded_error"), "provider_overloaded"),
        (Failure("rate_limit_error"), "provider_overloaded"),
        (Event("message", {"type": "error", "error": {"type": "overloaded_error"}}), "provider_overloaded"),
    ],
)
@pytest.mark.parametrize("before", ["", "head", "one two ", "call"])
async def test_breaks_in_the_stream_are_retryable(
    server: FakeAnthropic, model: AnthropicModel, before: str, step: Step, code: ErrorCode
) -> None:
    call = block_steps(Call("f", {"x": 1}))[:-1]
    said = words(before) if before not in ("head", "call") else []
    begin: Sequence[Step] = {"head": [Raw(b": the head is sent\n\n")], "call": [MessageStart(), *call]}.get(before, [])
    server.replies.append(Reply(steps=[*begin, *said, step]))
    seen, error = await failure(model)
    assert (error.code, error.retryable) == (code, True)
    # What was said was given on; a call that may not be whole was not.
    assert seen == [TextPiece(word.text) for word in said]


async def test_too_long_may_be_told_in_the_stream(server: FakeAnthropic, model: AnthropicModel) -> None:
    server.replies.append(Reply.script([Failure("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum")]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("context_too_long", False)


async def test_a_refusal_stops_the_answer_for_good(server: FakeAnthropic, model: AnthropicModel) -> None:
    call = block_steps(Call("f", {"x": 1}))[:-1]
    server.replies.append(Reply.script([*block_steps(Said("a"), 0), *call, MessageDelta("refusal"), MessageStop()]))
    seen, error = await failure(model)
    assert (seen, error.code, error.retryable) == ([TextPiece("a")], "provider_error", False)


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
async def test_an_answer_that_is_no_stream_points_at_the_url(
    server: FakeAnthropic, model: AnthropicModel, kind: str
) -> None:
    server.replies.append(Reply(content_type=kind, body=b'{"content": []}'))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", False)
    assert "base_url" in error.message


async def test_a_stream_under_a_wrong_content_type_is_read(server: FakeAnthropic, model: AnthropicModel) -> None:
    reply = Reply.text("a")
    reply.content_type = "text/plain"
    server.replies.append(reply)
    assert await collect(model) == [TextPiece("a"), Finish("stop", SOME)]


async def test_a_server_that_is_not_there() -> None:
    async with FakeAnthropic() as gone:
        url = gone.base_url
    model = AnthropicModel("main", "claude", KEY, url)
    seen, error = await failure(model)
    assert (seen, error.code, error.retryable) == ([], "provider_error", True)
    await model.close()


async def test_a_server_that_does_not_accept() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            # These fill the queue of connections that wait to be accepted.
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        limits = Timeouts(connect=0.2)
        model = AnthropicModel("main", "claude", KEY, f"http://127.0.0.1:{port}", timeouts=limits)
        seen, error = await failure(model)
        assert (seen, error.code, error.retryable) == ([], "provider_error", True)
        assert "too long" in error.message
        await model.close()


@pytest.mark.parametrize(
    ("steps", "begun"),
    [
        ([], False),
        ([MessageStart(), Ping(), start_of(Said(""))], False),
        ([MessageStart(), *words("a")], True),
        ([MessageStart(), start_of(Call("f")), Delta("", "partial_json")], True),
        ([MessageStart(), Delta("hm", "thinking")], True),
    ],
)
async def test_a_stall_ends_at_its_limit(server: FakeAnthropic, steps: list[Step], begun: bool) -> None:
    limits = Timeouts(first_token=60 if begun else 0.2, between_tokens=0.2 if begun else 60)
    model = AnthropicModel("main", "claude", KEY, server.base_url, timeouts=limits)
    server.replies.append(Reply(steps=[*steps, Stall()]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", True)
    assert "stopped answering" in error.message
    await server.requests[0].ended.wait()
    assert server.requests[0].abandoned
    await model.close()


async def test_pings_alone_are_no_answer(server: FakeAnthropic) -> None:
    model = AnthropicModel("main", "claude", KEY, server.base_url, timeouts=Timeouts(first_token=0.2))
    forever = (Ping() for _ in iter(int, 1))
    server.replies.append(Reply(steps=forever))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    _, error = await failure(model)
    assert "stopped answering" in error.message
    await server.requests[0].ended.wait()
    await model.close()


async def test_a_stall_after_the_end_costs_nothing(server: FakeAnthropic) -> None:
    model = AnthropicModel("main", "claude", KEY, server.base_url, timeouts=Timeouts(between_tokens=0.2))
    pieces = await answer(server, model, *words("a"), MessageDelta(), Stall())
    assert pieces == [TextPiece("a"), Finish("stop", SOME)]
    await model.close()


# ---- leaving early


async def test_closing_the_iterator_ends_the_request(server: FakeAnthropic, model: AnthropicModel) -> None:
    server.replies.append(Reply.script([*words("a"), Stall()]))
    async with asyncio.timeout(20):
        pieces = model.stream(HELLO)
        assert await anext(pieces) == TextPiece("a")
        await pieces.aclose()
        await server.requests[0].ended.wait()
    assert server.requests[0].abandoned


@pytest.mark.parametrize("steps", [[Stall()], [MessageStart(), *words("a"), Stall()]])
async def test_cancelling_the_task_ends_the_request(
    server: FakeAnthropic, model: AnthropicModel, steps: list[Step]
) -> None:
    server.replies.append(Reply(steps=steps))
    async with asyncio.timeout(20):
        task = asyncio.create_task(collect(model))
        await server.wait_for_requests(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.requests[0].ended.wait()
    assert server.requests[0].abandoned
