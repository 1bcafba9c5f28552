"""What a client without a socket sends, as frames, cursors and wishes."""

from __future__ import annotations

from urllib.parse import quote

import orjson
import pytest
from starlette.requests import Request

from gateway.http.formats import FORMATS, format_of
from gateway.http.messages import wants_json
from gateway.http.replies import page_size
from gateway.http.requests import cursor_of, frame_of
from gateway.http.tidegate_format import TidegateFormat
from protocol.errors import ProtocolError
from protocol.frames import AnswerTool, ApproveTool, Cancel, SendMessage
from protocol.ids import Cursor, is_id


def _request(query: str = "", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": raw})


def test_a_body_may_leave_out_what_the_path_says() -> None:
    frame = frame_of(b'{"id":"m1","content":"hello"}', SendMessage, "chat")
    assert frame == SendMessage(id="m1", content="hello", context_id="chat")
    whole = b'{"type":"message","id":"m1","content":"hello","context_id":"chat"}'
    assert frame_of(whole, SendMessage, "chat") == frame


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (SendMessage, {"content": "x"}),
        (Cancel, {}),
        (ApproveTool, {"tool_call_id": "t", "approved": True}),
        (AnswerTool, {"tool_call_id": "t", "result": None, "status": "success"}),
    ],
)
def test_an_id_is_made_where_none_is_given(shape: type[SendMessage], body: dict[str, object]) -> None:
    one, other = (frame_of(orjson.dumps(body), shape, "chat") for _ in range(2))
    assert is_id(one.id)
    assert one.id != other.id


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"type":"cancel","content":"x"}', "type"),
        (b'{"type":null,"content":"x"}', "type"),
        (b'{"context_id":"other","content":"x"}', "context_id"),
        (b'{"context_id":7,"content":"x"}', "context_id"),
        (b'{"content":7}', "content"),
        (b'{"id":null,"content":"x"}', "id"),
        (b'{"id":"a b","content":"x"}', "id"),
        (b"{}", "content"),
        (b'{"content":"x","metadata":' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}", "metadata"),
        (b'{"content":"x","type":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_refusal_names_the_field(body: bytes, path: str | None) -> None:
    with pytest.raises(ProtocolError) as refused:
        frame_of(body, SendMessage, "chat")
    assert refused.value.code == "invalid_frame"
    if path is not None:
        assert refused.value.path == path


def test_a_malformed_context_id_is_named() -> None:
    with pytest.raises(ProtocolError) as refused:
        frame_of(b'{"content":"x"}', SendMessage, "a b")
    assert refused.value.path == "context_id"


def test_the_header_of_a_reconnect_comes_before_the_cursor_of_its_url() -> None:
    assert cursor_of(_request()) is None
    assert cursor_of(_request("cursor=1:2")) == Cursor(1, 2)
    assert cursor_of(_request("cursor=1:2", last_event_id="1:7")) == Cursor(1, 7)
    assert cursor_of(_request("cursor=", last_event_id="")) is None


@pytest.mark.parametrize(
    ("request_", "path"),
    [(_request("cursor=7"), "cursor"), (_request(last_event_id="1:x"), "headers.last-event-id")],
)
def test_a_malformed_cursor_is_named(request_: Request, path: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        cursor_of(request_)
    assert (refused.value.code, refused.value.path) == ("invalid_frame", path)


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("", False),
        ("*/*", False),
        ("text/event-stream", False),
        ("application/json", True),
        ("Application/JSON; q=1, */*", True),
        ("text/event-stream, application/json", False),
        ("application/json, text/event-stream", True),
        ("text/html, application/*", False),
    ],
)
def test_json_comes_for_who_asks_for_it(accept: str, json: bool) -> None:
    assert wants_json(accept) is json


def test_a_format_by_its_name() -> None:
    assert isinstance(format_of(_request()), TidegateFormat)
    for name in FORMATS:
        assert format_of(_request(f"format={name}")) is not format_of(_request(f"format={name}"))
    with pytest.raises(ProtocolError) as refused:
        format_of(_request("format=xml"))
    assert (refused.value.path, "tidegate, ag-ui, ai-sdk" in refused.value.message) == ("format", True)


def test_a_page_has_a_size() -> None:
    assert page_size(_request(), 50) == 50
    assert [page_size(_request(f"limit={text}"), 50) for text in ("1", "200", "007")] == [1, 200, 7]


@pytest.mark.parametrize("text", ["", "0", "201", "-1", "1.0", "1_0", "²", "٣", "9" * 5000, "1%0A"])
def test_a_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        page_size(_request(f"limit={quote(text, safe='%')}"), 50)
    assert (refused.value.code, refused.value.path) == ("invalid_frame", "limit")
