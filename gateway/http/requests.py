"""What a client without a socket sends, as the frames of one: bodies, cursors."""

from __future__ import annotations

from typing import TypeVar, cast

import msgspec
from starlette.requests import Request

from protocol.codec import decode_client, encode
from protocol.errors import ProtocolError
from protocol.frames import AnswerTool, ApproveTool, Cancel, SendMessage
from protocol.ids import Cursor, new_id

__all__ = ["cursor_of", "frame_of"]

_F = TypeVar("_F", SendMessage, AnswerTool, ApproveTool, Cancel)
_PREFIXES = {SendMessage: "msg_", AnswerTool: "resp_", ApproveTool: "appr_", Cancel: "cancel_"}

_fields: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def frame_of(body: bytes, shape: type[_F], context_id: str) -> _F:
    """The frame in a body: it may leave out `type` and `context_id`, which it must not contradict, and `id`, of which a
    new one is made. Raises ProtocolError `invalid_frame`, which names the field."""
    try:
        fields = _fields.decode(body)
    except msgspec.ValidationError as error:
        raise ProtocolError("invalid_frame", "the body is one JSON object") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError("invalid_frame", "the body is not valid JSON") from error
    said = {"type": str(shape.__struct_config__.tag), "context_id": context_id}
    for name, value in said.items():
        raw = msgspec.Raw(encode(value))
        if _value(fields.setdefault(name, raw)) != value:
            raise ProtocolError("invalid_frame", f"the path says {value!r}, and the body may not differ", path=name)
    fields.setdefault("id", msgspec.Raw(encode(new_id(_PREFIXES[shape]))))
    return cast("_F", decode_client(encode(fields)))


def _value(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        return None


def cursor_of(request: Request) -> Cursor | None:
    """Where the client wants to go on: what its `Last-Event-ID` says, which an EventSource keeps up to date, before the
    `cursor` of a URL that it repeats. Raises ProtocolError, which names the one at fault."""
    for path, text in (
        ("headers.last-event-id", request.headers.get("last-event-id")),
        ("cursor", request.query_params.get("cursor")),
    ):
        if text:
            try:
                return Cursor.parse(text)
            except ValueError as error:
                raise ProtocolError("invalid_frame", str(error), path=path) from error
    return None
