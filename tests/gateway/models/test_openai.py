from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from gateway.models.openai import OpenAIModel
from gateway.models.openai_chunks import MAX_ARGUMENTS
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
from gateway.testing.openai_script import (
    CallFragment,
    Chunk,
    Cut,
    Done,
    Hold,
    Raw,
    Reasoning,
    Reply,
    Shape,
    Stall,
    Step,
    Text,
    words,
)
from gateway.testing.openai_script import Finish as Finished
from gateway.testing.openai_script import Usage as Counted
from gateway.testing.openai_server import FakeOpenAI
from protocol.errors import ErrorCode
from protocol.frames import ImagePart, ResourcePart, TextPart, ToolSpec, Usage

KEY = "sk-very-secret"
HELLO = ModelRequest(inputs=[TextInput("user", "hello")])


@pytest.fixture
async def server() -> AsyncGenerator[FakeOpenAI, None]:
    async with FakeOpenAI() as running:
        yield running


@pytest.fixture
async def model(server: FakeOpenAI) -> AsyncGenerator[OpenAIModel, None]:
    model = OpenAIModel("main", "gpt-test", KEY, server.base_url)
    yield model
    await model.close()


async def collect(model: OpenAIModel, request: ModelRequest = HELLO) -> list[ModelPiece]:
    async with asyncio.timeout(20), aclosing(model.stream(request)) as pieces:
        return [piece async for piece in pieces]


async def drain(model: OpenAIModel, seen: list[ModelPiece]) -> None:
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        async for piece in pieces:
            seen.append(piece)  # noqa: PERF401 - a comprehension would lose them at the error


async def failure(model: OpenAIModel) -> tuple[list[ModelPiece], ModelError]:
    seen: list[ModelPiece] = []
    with pytest.raises(ModelError) as caught:
        await drain(model, seen)
    assert KEY not in caught.value.message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return seen, caught.value


async def answer(server: FakeOpenAI, model: OpenAIModel, *steps: Step) -> list[ModelPiece]:
    server.replies.append(Reply(steps=steps))
    return await collect(model)


# ---- text, usage, the end


async def test_text_streams_and_usage_is_counted(server: FakeOpenAI, model: OpenAIModel) -> None:
    usage = Counted(prompt_tokens=7, completion_tokens=3, cached_tokens=4, reasoning_tokens=1)
    server.replies.append(Reply.text("one two  three", usage=usage))
    assert await collect(model) == [
        TextPiece("one "),
        TextPiece("two  "),
        TextPiece("three"),
        Finish("stop", Usage(input_tokens=7, output_tokens=3, cached_tokens=4, reasoning_tokens=1)),
    ]


async def test_a_piece_arrives_before_the_next_one_is_sent(server: FakeOpenAI, model: OpenAIModel) -> None:
    more = asyncio.Event()
    server.replies.append(Reply(steps=[Text("a"), Hold(more), Text("b"), Finished(), Done()]))
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        assert await anext(pieces) == TextPiece("a")
        more.set()
        assert await anext(pieces) == TextPiece("b")


async def test_the_limit_of_the_provider_is_told(server: FakeOpenAI, model: OpenAIModel) -> None:
    assert await answer(server, model, Text("a"), Finished("length"), Done()) == [TextPiece("a"), Finish("length")]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_has_its_channel(server: FakeOpenAI, model: OpenAIModel, field: Any) -> None:
    pieces = await answer(server, model, Reasoning("hm", field), Text("a"), Finished(), Done())
    assert pieces[:2] == [TextPiece("hm", "reasoning"), TextPiece("a")]


async def test_reasoning_that_comes_under_both_names_is_taken_once(server: FakeOpenAI, model: OpenAIModel) -> None:
    both = Chunk({"choices": [{"index": 0, "delta": {"reasoning": "hm", "reasoning_content": "hm"}}]})
    assert (await answer(server, model, both, Finished()))[:-1] == [TextPiece("hm", "reasoning")]


async def test_a_refusal_is_text(server: FakeOpenAI, model: OpenAIModel) -> None:
    refusal = Chunk({"choices": [{"index": 0, "delta": {"refusal": "I can't."}}]})
    assert (await answer(server, model, refusal, Finished()))[:-1] == [TextPiece("I can't.")]


async def test_what_servers_leave_out_or_add_is_tolerated(server: FakeOpenAI, model: OpenAIModel) -> None:
    pieces = await answer(
        server,
        model,
        Raw(b": keep-alive\n\n"),
        Chunk({"choices": [], "prompt_filter_results": [{}]}),
        Chunk({"choices": None, "usage": None}),
        Chunk({"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": ""}]}),
        Chunk({"choices": [{"delta": {"content": "a"}}, {"index": 1, "delta": {"content": "other"}}]}),
        Chunk({"choices": [{"index": 0, "delta": None, "finish_reason": "eos"}], "usage": {"prompt_tokens": 3}}),
    )
    assert pieces == [TextPiece("a"), Finish("stop", Usage(input_tokens=3, output_tokens=0))]


async def test_halves_of_a_character_are_joined(server: FakeOpenAI, model: OpenAIModel) -> None:
    def half(escaped: bytes) -> Raw:
        return Raw(b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % escaped)

    pieces = await answer(server, model, half(rb"a\ud83d"), half(rb"\ude00b"), half(rb"\ude00c\ud83d"), Finished())
    assert [piece.text for piece in pieces if isinstance(piece, TextPiece)] == ["a", "😀b", "�c", "�"]


async def test_usage_is_not_asked_for_again_where_it_was_refused(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply.failure(400, "unknown_field", "Unrecognized request argument: stream_options"))
    server.replies.extend([Reply.text("a"), Reply.text("b")])
    assert await collect(model) == [TextPiece("a"), Finish("stop")]
    assert await collect(model) == [TextPiece("b"), Finish("stop")]
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


async def test_an_end_without_its_last_lines_is_an_end(server: FakeOpenAI, model: OpenAIModel) -> None:
    assert await answer(server, model, Text("a"), Finished(), Cut()) == [TextPiece("a"), Finish("stop")]
    assert await answer(server, model, Text("a"), Finished(), Raw(b"data: {oops\n\n")) == [
        TextPiece("a"),
        Finish("stop"),
    ]


# ---- tool calls


@pytest.mark.parametrize("shape", ["openai", "vllm", "llama.cpp", "ollama", "unindexed"])
async def test_calls_in_the_shapes_of_real_servers(server: FakeOpenAI, model: OpenAIModel, shape: Shape) -> None:
    first, second, third = {"a": 5, "b": "é"}, dict[str, Any](), {"a": 5, "b": "é"}
    server.replies.append(Reply.calls(("calc", first), ("calc", second), ("calc", third), shape=shape, before="So: "))
    assert (await collect(model))[:-1] == [
        TextPiece("So: "),
        CallReady("calc", first),
        CallReady("calc", second),
        CallReady("calc", third),
    ]


async def test_a_call_is_ready_when_the_next_one_begins(server: FakeOpenAI, model: OpenAIModel) -> None:
    more = asyncio.Event()
    begun = CallFragment(index=1, id="b", name="second", arguments="")
    server.replies.append(
        Reply(steps=[CallFragment(index=0, id="a", name="first", arguments="{}"), begun, Hold(more), Finished()])
    )
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        assert await anext(pieces) == CallReady("first", {})
        more.set()
        assert await anext(pieces) == CallReady("second", {})


async def test_a_call_is_ready_when_the_answer_is_finished(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply(steps=[CallFragment(index=0, id="a", name="f"), Finished("tool_calls"), Stall()]))
    async with asyncio.timeout(20), aclosing(model.stream(HELLO)) as pieces:
        assert await anext(pieces) == CallReady("f", {})


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        ([("a", "go", None), ("a", "to", None), ("a", None, "{}")], [CallReady("goto", {})]),
        ([("a", "f", None), ("a", "f", '{"x"'), ("a", "f", ":1}")], [CallReady("f", {"x": 1})]),
        ([("a", "f", ""), ("b", None, '{"x"'), ("c", None, ":1}")], [CallReady("f", {"x": 1})]),
        ([("a", "f", "{}"), ("b", "f", "{}")], [CallReady("f", {}), CallReady("f", {})]),
        ([(None, "f", "{}"), (None, "g", "{}")], [CallReady("f", {}), CallReady("g", {})]),
        ([("a", "f", {"x": 1})], [CallReady("f", {"x": 1})]),
        ([("a", "f", " ")], [CallReady("f", {})]),
    ],
)
async def test_odd_fragments_under_one_index(
    server: FakeOpenAI, model: OpenAIModel, fragments: Sequence[tuple[Any, Any, Any]], expected: list[CallReady]
) -> None:
    steps = [CallFragment(index=0, id=call, name=name, arguments=arguments) for call, name, arguments in fragments]
    assert (await answer(server, model, *steps, Finished("tool_calls")))[:-1] == expected


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
async def test_arguments_that_are_no_object_are_a_problem(server: FakeOpenAI, model: OpenAIModel, written: str) -> None:
    call, end = await answer(server, model, CallFragment(index=0, name="f", arguments=written), Finished())
    assert isinstance(call, CallReady)
    assert (call.tool, call.parameters) == ("f", {})
    assert call.problem
    assert len(call.problem) < 500
    assert end == Finish("stop")


async def test_a_call_without_a_name_fails(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply(steps=[CallFragment(index=0, arguments="{}"), Finished()]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", True)


# ---- what is sent


async def sent(server: FakeOpenAI, *inputs: ModelInput, images: bool = True) -> list[Any]:
    model = OpenAIModel("main", "gpt", KEY, server.base_url, images=images)
    server.replies.append(Reply.text("ok"))
    await collect(model, ModelRequest(inputs=inputs))
    await model.close()
    return server.requests[-1].body["messages"]


PNG = ImagePart(mime_type="image/png", data="AAAA")
DRAWN: list[ModelInput] = [
    AssistantInput("", [CallInput("t1", "draw", {}), CallInput("t2", "draw", {}), CallInput("t3", "draw", {})]),
    ToolResultInput("t1", "Two:", is_error=False, images=(PNG, PNG)),
    ToolResultInput("t2", "", is_error=False, images=(PNG,)),
    ToolResultInput("t3", "none", is_error=False),
]


async def test_images_of_results_follow_all_answers_of_the_step(server: FakeOpenAI) -> None:
    first = await sent(server, *DRAWN)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert first[1:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "Two:\n(2 images, which follow.)"},
        {"role": "tool", "tool_call_id": "t2", "content": "(1 image, which follows.)"},
        {"role": "tool", "tool_call_id": "t3", "content": "none"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "(Of the result of the call t1:)"},
                image,
                image,
                {"type": "text", "text": "(Of the result of the call t2:)"},
                image,
            ],
        },
    ]
    # The next step begins with all that this one was given.
    second = await sent(server, *DRAWN, AssistantInput("Done."), TextInput("user", "thanks"))
    assert second[: len(first)] == first
    assert [message["role"] for message in second[len(first) :]] == ["assistant", "user"]


async def test_a_model_that_is_not_shown_images_is_told_of_them(server: FakeOpenAI) -> None:
    messages = await sent(server, *DRAWN, images=False)
    assert [message["content"] for message in messages[1:]] == [
        "Two:\n(2 images, which this model can't be shown.)",
        "(1 image, which this model can't be shown.)",
        "none",
    ]


async def test_inputs_and_tools_are_mapped(server: FakeOpenAI) -> None:
    inputs: list[ModelInput] = [
        TextInput("system", [TextPart(text="Be"), TextPart(text="brief.")]),
        TextInput(
            "user", [TextPart(text="see"), ImagePart(mime_type="image/png", data="AAAA"), ResourcePart(uri="x:y")]
        ),
        AssistantInput("Looking.", [CallInput("t1", "look", {"at": "é"})]),
        ToolResultInput("t1", '{"seen": 1}', is_error=False),
        AssistantInput("", [CallInput("t2", "look", {})]),
        ToolResultInput("t2", "no light", is_error=True),
        AssistantInput("Done."),
    ]
    tools = [ToolSpec(name="look", description="Looks.", parameters={"type": "object"})]
    model = OpenAIModel(
        "main", "gpt", KEY, server.base_url, max_tokens=99, temperature=0.5, extra={"seed": 1, "temperature": 0.1}
    )
    server.replies.append(Reply.text("ok"))
    await collect(model, ModelRequest(inputs=inputs, tools=tools))
    await model.close()
    request = server.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "gpt",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 99,
        "temperature": 0.1,
        "seed": 1,
        "messages": [
            {"role": "system", "content": "Be\nbrief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "text", "text": "x:y"},
                ],
            },
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"é"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": '{"seen": 1}'},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "t2", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "t2", "content": "Error: no light"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
            }
        ],
    }


# ---- failures


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "retry_after"),
    [
        (Reply.failure(401, "invalid_api_key", f"Incorrect API key: {KEY}"), "provider_error", False, None),
        (Reply.failure(403), "provider_error", False, None),
        (Reply.failure(404, "model_not_found"), "provider_error", False, None),
        (Reply.failure(400, "invalid_value"), "provider_error", False, None),
        (Reply.failure(429, retry_after="7"), "provider_overloaded", True, 7.0),
        (Reply.failure(429, retry_after="soon"), "provider_overloaded", True, None),
        (Reply.failure(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), "provider_overloaded", True, 0.0),
        (Reply(status=429, headers={"retry-after-ms": "1500"}, body=b""), "provider_overloaded", True, 1.5),
        (Reply.failure(429, "insufficient_quota"), "provider_error", False, None),
        (Reply.failure(503, retry_after="2"), "provider_overloaded", True, 2.0),
        (Reply.failure(529), "provider_overloaded", True, None),
        (Reply.failure(500), "provider_error", True, None),
        (Reply(status=502, content_type="text/html", body=b"<html>Bad gateway"), "provider_error", True, None),
        (Reply.failure(408), "provider_error", True, None),
        (Reply.failure(413), "context_too_long", False, None),
        (Reply.failure(400, "context_length_exceeded"), "context_too_long", False, None),
        (Reply.failure(400, "", "This model's maximum context length is 8 tokens"), "context_too_long", False, None),
        (Reply.failure(400, "exceed_context_size_error"), "context_too_long", False, None),
        (Reply.failure(400, "", "Prompt is 900 tokens, too long"), "context_too_long", False, None),
    ],
)
async def test_refusals(
    server: FakeOpenAI, model: OpenAIModel, reply: Reply, code: ErrorCode, retryable: bool, retry_after: float | None
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
        (Done(), "provider_error"),
        (Raw(b"data: {not json\n\n"), "provider_error"),
        (Raw(b"data: \xff\xfe\n\n"), "provider_error"),
        (Raw(b"data: 42\n\n"), "provider_error"),
        (Raw(b"data: null\n\n"), "provider_error"),
        (Chunk({"choices": [{"delta": {"content": 5}}]}), "provider_error"),
        (Chunk({"error": {"message": f"boom {KEY}", "code": 500}}), "provider_error"),
        (Chunk({"error": f"boom {KEY}"}), "provider_error"),
        (Chunk({"error": {"message": "", "type": "overloaded_error"}}), "provider_overloaded"),
        (Chunk({"error": {"message": "", "code": "rate_limit_exceeded"}}), "provider_overloaded"),
        (Finished("abort"), "provider_error"),
    ],
)
@pytest.mark.parametrize("before", ["", "head", "one two ", "call"])
async def test_breaks_in_the_stream_are_retryable(
    server: FakeOpenAI, model: OpenAIModel, before: str, step: Step, code: ErrorCode
) -> None:
    call = [CallFragment(index=0, id="a", name="f", arguments='{"x": '), CallFragment(index=0, arguments="1")]
    said = words(before) if before not in ("head", "call") else []
    begin = {"head": [Raw(b": the head is sent\n\n")], "call": call}.get(before, [])
    server.replies.append(Reply(steps=[*begin, *said, step]))
    seen, error = await failure(model)
    assert (error.code, error.retryable) == (code, True)
    # What was said was given on; a call that may not be whole was not.
    assert seen == [TextPiece(word.text) for word in said]


@pytest.mark.parametrize("written", ["", '{"a": '])
async def test_a_call_that_the_limit_cut_is_a_problem(server: FakeOpenAI, model: OpenAIModel, written: str) -> None:
    call, end = await answer(server, model, CallFragment(index=0, name="f", arguments=written), Finished("length"))
    assert isinstance(call, CallReady)
    assert call.parameters == {}
    assert call.problem
    assert end == Finish("length")


async def test_too_long_may_be_told_in_the_stream(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply(steps=[Chunk({"error": {"message": "the context window is full"}})]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("context_too_long", False)


async def test_a_filter_stops_the_answer_for_good(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply(steps=[Text("a"), Finished("content_filter"), Done()]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", False)


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
async def test_an_answer_that_is_no_stream_points_at_the_url(server: FakeOpenAI, model: OpenAIModel, kind: str) -> None:
    server.replies.append(Reply(content_type=kind, body=b'{"choices": []}'))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", False)
    assert "base_url" in error.message


async def test_a_stream_under_a_wrong_content_type_is_read(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply(steps=[Text("a"), Finished()], content_type="text/plain"))
    assert await collect(model) == [TextPiece("a"), Finish("stop")]


async def test_a_server_that_is_not_there(server: FakeOpenAI) -> None:
    async with FakeOpenAI() as gone:
        url = gone.base_url
    model = OpenAIModel("main", "gpt", KEY, url)
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
        model = OpenAIModel("main", "gpt", KEY, f"http://127.0.0.1:{port}/v1", timeouts=limits)
        seen, error = await failure(model)
        assert (seen, error.code, error.retryable) == ([], "provider_error", True)
        assert "too long" in error.message
        await model.close()


@pytest.mark.parametrize("steps", [[], [Text("a")], [Chunk({"choices": [{"delta": {"role": "assistant"}}]})]])
async def test_a_stall_ends_at_its_limit(server: FakeOpenAI, steps: list[Step]) -> None:
    begun = bool(steps) and isinstance(steps[0], Text)
    limits = Timeouts(first_token=60 if begun else 0.2, between_tokens=0.2 if begun else 60)
    model = OpenAIModel("main", "gpt", KEY, server.base_url, timeouts=limits)
    server.replies.append(Reply(steps=[*steps, Stall()]))
    _, error = await failure(model)
    assert (error.code, error.retryable) == ("provider_error", True)
    assert "stopped answering" in error.message
    await server.requests[0].ended.wait()
    assert server.requests[0].abandoned
    await model.close()


async def test_a_stall_after_the_end_costs_nothing_but_the_usage(server: FakeOpenAI) -> None:
    model = OpenAIModel("main", "gpt", KEY, server.base_url, timeouts=Timeouts(between_tokens=0.2))
    assert await answer(server, model, Text("a"), Finished(), Stall()) == [TextPiece("a"), Finish("stop")]
    await model.close()


# ---- leaving early


async def test_closing_the_iterator_ends_the_request(server: FakeOpenAI, model: OpenAIModel) -> None:
    server.replies.append(Reply(steps=[Text("a"), Stall()]))
    async with asyncio.timeout(20):
        pieces = model.stream(HELLO)
        assert await anext(pieces) == TextPiece("a")
        await pieces.aclose()
        await server.requests[0].ended.wait()
    assert server.requests[0].abandoned


@pytest.mark.parametrize("steps", [[Stall()], [Text("a"), Stall()]])
async def test_cancelling_the_task_ends_the_request(server: FakeOpenAI, model: OpenAIModel, steps: list[Step]) -> None:
    server.replies.append(Reply(steps=steps))
    async with asyncio.timeout(20):
        task = asyncio.create_task(collect(model))
        await server.wait_for_requests(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.requests[0].ended.wait()
    assert server.requests[0].abandoned
