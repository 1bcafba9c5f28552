from __future__ import annotations

import json
from typing import Annotated, Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import (
    MAX_DEPTH,
    decode_client,
    decode_durable,
    decode_event,
    decode_server,
    encode,
    error_frame,
    invalid_frame,
    with_seq,
)
from protocol.errors import ProtocolError
from protocol.frames import ClientFrame, Delta, DurableEvent, Event, Message, Ping, ServerFrame
from tests.protocol.frames_strategy import frames_of, json_values


def refusal(data: bytes | str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        decode_client(data)
    assert caught.value.code == "invalid_frame"
    assert len(caught.value.message) < 300
    return caught.value


@given(frames_of(ClientFrame))
def test_client_frames_round_trip(frame: Any) -> None:
    assert decode_client(encode(frame)) == frame


@given(frames_of(ServerFrame))
def test_server_frames_round_trip(frame: Any) -> None:
    assert decode_server(encode(frame)) == frame


@given(frames_of(Event))
def test_events_round_trip(event: Any) -> None:
    assert decode_event(encode(event)) == event


@given(frames_of(DurableEvent))
def test_durable_events_round_trip(event: Any) -> None:
    assert decode_durable(encode(event)) == event


@given(frames_of(Event), st.integers(1, 2**53), st.none() | st.integers(1, 2**53))
def test_a_seq_is_added_to_the_encoded_event(event: Any, seq: int, first: int | None) -> None:
    bare = msgspec.structs.replace(event, seq=0, first=None)
    placed = msgspec.structs.replace(event, seq=seq, first=None if first == seq else first)
    assert decode_event(with_seq(encode(bare), seq, first)) == placed


def test_first_is_left_out_where_it_is_the_seq() -> None:
    body = encode(Delta(context_id="c", message_id="m", text="x"))
    assert with_seq(body, 5, 5) == with_seq(body, 5) == body[:-1] + b',"seq":5}'
    assert with_seq(body, 5, 3).endswith(b',"seq":5,"first":3}')


def decode_or_refuse(data: bytes | str) -> None:
    """Nothing but a frame or a refusal comes out, and a refusal of an object says where."""
    refused: ProtocolError | None = None
    try:
        frame = decode_client(data)
        assert decode_client(encode(frame)) == frame
    except ProtocolError as error:
        refused = error
    if refused is not None:
        assert refused.code == "invalid_frame"
        assert "matching regex" not in refused.message
        text = data if isinstance(data, str) else data.decode("latin-1")
        assert refused.path or refused.message.startswith("the message is") or not text.lstrip().startswith("{")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_arbitrary_input(data: bytes | str) -> None:
    decode_or_refuse(data)


@given(json_values)
def test_arbitrary_json(value: Any) -> None:
    decode_or_refuse(json.dumps(value))


@given(st.data(), frames_of(ClientFrame))
@settings(max_examples=300)
def test_mutated_fields(data: st.DataObject, frame: Any) -> None:
    tree: dict[str, Any] = json.loads(encode(frame))
    field = data.draw(st.sampled_from(sorted(tree)))
    match data.draw(st.sampled_from(["drop", "replace", "inside", "add"])):
        case "drop":
            del tree[field]
        case "replace":
            tree[field] = data.draw(json_values)
        case "inside" if isinstance(tree[field], dict | list) and tree[field]:
            _replace_inside(tree[field], data)
        case _:
            tree[data.draw(st.sampled_from(["cursors", "content", "tools", "id"]))] = data.draw(json_values)
    decode_or_refuse(json.dumps(tree))


def _replace_inside(container: Any, data: st.DataObject) -> None:
    keys = sorted(cast("dict[str, Any]", container)) if isinstance(container, dict) else range(len(container))
    container[data.draw(st.sampled_from(keys))] = data.draw(json_values)


@given(st.data(), frames_of(ClientFrame))
@settings(max_examples=300)
def test_mutated_bytes(data: st.DataObject, frame: Any) -> None:
    body = bytearray(encode(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        else:
            body[at:at] = data.draw(st.sampled_from([b"[", b"1e400", b'"', b"\\ud800", b"{", b"}", b"null,"]))
        if not body:
            break
    decode_or_refuse(bytes(body))


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[]", None, "expected object, got array"),
        ("{}", "type", "the field is missing"),
        ('{"type":"nope"}', "type", "'nope' is not one of the possible values"),
        ('{"type":5}', "type", "expected string"),
        ('{"type":"message","id":"a"}', "content", "the field is missing"),
        ('{"type":"message","id":"a b","content":""}', "id", "an id is 1 to 128 of A-Z a-z 0-9 _ . : -"),
        ('{"type":"message","id":"","content":""}', "id", "an id is 1 to 128 of A-Z a-z 0-9 _ . : -"),
        ('{"type":"message","id":"a","content":5}', "content", "expected string | array, got integer"),
        ('{"type":"message","id":"a","content":[{"type":"x"}]}', "content[0].type", "'x' is not one of the possible"),
        ('{"type":"message","id":"a","content":[{}]}', "content[0].type", "the field is missing"),
        (
            '{"type":"message","id":"a","content":[{"type":"image","mime_type":"x","data":""}]}',
            "content[0].mime_type",
            "expected the MIME type of an image",
        ),
        ('{"type":"message","id":"a","content":"","timestamp":"1"}', "timestamp", "invalid RFC3339"),
        ('{"type":"message","id":"a","content":"","metadata":{"b":1,"a":1e400}}', "metadata.a", "number out of range"),
        ('{"type":"hello","attempt":1.5}', "attempt", "expected integer | null, got number"),
        ('{"type":"hello","cursors":{"a":"1:2","b":"x"}}', "cursors.b", "a cursor is <epoch>:<seq>"),
        ('{"type":"hello","cursors":{"a":null,"b c":null}}', "cursors.b c", "an id is 1 to 128"),
        ('{"type":"hello","cursors":{"a":3}}', "cursors.a", "expected string | null, got integer"),
        ('{"type":"hello","tools":[{"name":"a b","description":""}]}', "tools[0].name", "a tool's name is 1 to 64"),
        ('{"type":"subscribe","id":"a","context_id":"c","cursor":"1:2\\n"}', "cursor", "a cursor is <epoch>:<seq>"),
        ("", None, "the message is not valid JSON text"),
        ('{"type":"ping","id":"\\ud800"}', None, "the message is not valid JSON text"),
    ],
)
def test_a_refusal_says_where_and_what(text: str, path: str | None, message: str) -> None:
    error = refusal(text)
    assert error.path == path
    assert error.message.startswith(message)
    assert refusal(text.encode()).path == path


def test_text_that_is_not_unicode() -> None:
    assert refusal(b'{"type":"ping","id":"\xff"}').message == "the message is not valid JSON text"
    assert refusal('{"type":"ping","id":"\ud800"}').message == "the message is not valid JSON text"


def test_the_refused_frame_is_named_where_its_id_can_be_read() -> None:
    assert refusal('{"type":"message","id":"a"}').frame_id == "a"
    assert refusal('{"type":"message","content":1e400,"id":"a"}').frame_id == "a"
    assert refusal('{"type":"message","id":5}').frame_id is None
    assert refusal('{"type":"message","id":"a b"}').frame_id is None
    assert refusal('{"type":"message","id":"a","content":5,').frame_id is None


def test_what_follows_a_misfit_need_not_be_json() -> None:
    assert refusal("[" * 100_000).message == "expected object, got array"
    assert refusal('{"type":"message","id":5,"metadata":' + "[" * 100_000).path == "id"
    assert refusal('{"type":"hello","cursors":{"a b":"1:2", ').path == "cursors"
    assert refusal('{"type":"hello","cursors":{"a b":"1:2"},"client":' + "[" * 100_000).path == "cursors"


def test_a_key_may_come_twice() -> None:
    assert refusal('{"type":"hello","cursors":{"a b":"1:2"},"cursors":5}').path == "cursors"
    assert refusal('{"type":"hello","cursors":{"a b":"1:2"},"cursors":{}}').path == "cursors"
    assert refusal('{"type":"hello","cursors":{"a":"x"},"cursors":{"b":[1e400]}}').path == "cursors.b"


def test_long_texts_are_not_sent_back() -> None:
    assert len(refusal(json.dumps({"type": "x" * 10_000})).message) < 200
    path = refusal(json.dumps({"type": "hello", "cursors": {"x" * 10_000: None}})).path
    assert path == "cursors." + "x" * 128


def nested(levels: int) -> str:
    return '{"type":"tool_call","id":"a","tool":"t","parameters":{"x":' + "[" * (levels - 2) + "]" * (levels - 2) + "}}"


def test_depth_has_a_bound() -> None:
    decode_client(nested(MAX_DEPTH))
    error = refusal(nested(MAX_DEPTH + 1))
    assert (error.path, error.frame_id) == ("parameters", "a")
    assert refusal(nested(MAX_DEPTH + 1).encode()).path == "parameters"
    assert refusal(nested(100_000)).message == "the message is nested too deeply"


def test_many_brackets_are_not_depth() -> None:
    texts = [{"type": "text", "text": "[{"}] * 200
    decode_client(json.dumps({"type": "message", "id": "a", "content": texts}))
    tools = [{"name": "t", "description": "", "parameters": {"x": [[0]]}}] * 100
    decode_client(json.dumps({"type": "hello", "tools": tools}))


def test_any_shape_can_be_refused_in_words() -> None:
    class Body(msgspec.Struct):
        names: dict[str, int]

    def refuse(text: str, shape: Any) -> ProtocolError:
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.json.decode(text, type=shape)
        return invalid_frame(caught.value, text, shape)

    assert refuse('{"names":{"a":1,"b":"x"}}', Body).path == "names.b"
    assert refuse('{"x":"y"}', dict[str, int]).path is None
    assert refuse('{"a":{"b":"x"}}', dict[str, dict[str, int]]).path is None
    assert (
        refuse('"b"', Annotated[str, msgspec.Meta(pattern="^a$")]).message == "the text does not have the expected form"
    )


def test_an_error_as_its_peer_is_told() -> None:
    error = ProtocolError("rate_limited", "slow down", retry_after=2, path="id", frame_id="a")
    assert json.loads(encode(error_frame(error))) == {
        "type": "error",
        "code": "rate_limited",
        "message": "slow down",
        "retryable": True,
        "id": "a",
        "retry_after": 2,
        "path": "id",
    }
    assert error_frame(error, "b").id == "b"


def test_decoders_know_their_own_frames_only() -> None:
    assert decode_server('{"type":"pong","id":"a"}') != Ping(id="a")
    with pytest.raises(msgspec.ValidationError):
        decode_durable('{"type":"delta","context_id":"c","message_id":"m","text":""}')
    message = decode_event(
        '{"type":"message","context_id":"c","id":"a","content":"","role":"user","timestamp":"t","status":"complete"}'
    )
    assert isinstance(message, Message)
    assert message.seq == 0
