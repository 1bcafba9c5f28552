"""Bytes to frames and back (docs/protocol.md, section 1): errors name the field, events take their `seq` late."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from protocol.errors import ProtocolError
from protocol.frames import (
    MIME_TYPE_PATTERN,
    TOOL_NAME_PATTERN,
    ClientFrame,
    DurableEvent,
    Error,
    Event,
    ServerFrame,
    ToolSpec,
)
from protocol.ids import CURSOR_PATTERN, ID_PATTERN, is_id

__all__ = [
    "MAX_DEPTH",
    "decode_client",
    "decode_durable",
    "decode_event",
    "decode_server",
    "encode",
    "error_frame",
    "invalid_frame",
    "with_seq",
]

MAX_DEPTH = 100
"""How deeply a client's JSON may be nested."""


class _AnyFrame(msgspec.Struct):
    id: object = None


_encoder = msgspec.json.Encoder()
_client: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_server: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)
_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_any_frame: msgspec.json.Decoder[_AnyFrame] = msgspec.json.Decoder(_AnyFrame)
_raw_object: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_durable: msgspec.json.Decoder[DurableEvent] = msgspec.json.Decoder(DurableEvent)

_AT = re.compile(r" - at `(key` in `)?\$([^`]*)`$")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_NO_SUCH = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_REGEX = re.compile(r"Expected `str` matching regex (.*)", re.DOTALL)
_RULES = {
    repr(ID_PATTERN): "an id is 1 to 128 of A-Z a-z 0-9 _ . : -",
    repr(CURSOR_PATTERN): "a cursor is <epoch>:<seq>",
    repr(TOOL_NAME_PATTERN): "a tool's name is 1 to 64 of A-Z a-z 0-9 _ -",
    repr(MIME_TYPE_PATTERN): "expected the MIME type of an image",
}
# msgspec speaks of Python's types, the peer of JSON's.
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "datetime": "time"}
_NOT_JSON = "the message is not valid JSON text"
_MAX_ECHO = 128

encode = _encoder.encode
decode_server = _server.decode
decode_event = _event.decode
decode_durable = _durable.decode


def decode_client(data: bytes | str) -> ClientFrame:
    """The frame in `data`; raises ProtocolError `invalid_frame` with the field's path and, if readable, its id."""
    try:
        frame = _client.decode(data)
    except msgspec.ValidationError as error:
        raise invalid_frame(error, data, ClientFrame) from error
    except RecursionError as error:
        raise ProtocolError("invalid_frame", "the message is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ProtocolError("invalid_frame", _NOT_JSON) from error
    if _brackets(data) > MAX_DEPTH:
        _check_depth(frame, data)
    return frame


def with_seq(body: bytes, seq: int, first: int | None = None) -> bytes:
    """The event's JSON with its place in the log; `body` is an encoded event that has no `seq` yet."""
    if first is not None and first != seq:
        return b'%b,"seq":%d,"first":%d}' % (body[:-1], seq, first)
    return b'%b,"seq":%d}' % (body[:-1], seq)


def error_frame(error: ProtocolError, frame_id: str | None = None) -> Error:
    """What the peer is told of a refusal."""
    return Error(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        id=frame_id or error.frame_id,
        retry_after=error.retry_after,
        path=error.path,
    )


def invalid_frame(error: msgspec.ValidationError, data: bytes | str, shape: Any) -> ProtocolError:
    """`error` as the peer is told of it; `data` is the JSON that did not fit `shape`. Raises nothing, though what
    follows the misfit in `data` may not even be JSON."""
    reason, path, in_key = _locate(error)
    if in_key:
        path += "[...]"
    if "[...]" in path:
        path = _name_key(path, data, shape)
    missing = _MISSING.fullmatch(reason)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
    return ProtocolError("invalid_frame", _in_words(reason), path=path or None, frame_id=_readable_id(data))


def _locate(error: msgspec.ValidationError) -> tuple[str, str, bool]:
    """The reason, the path, and whether a key of the mapping at that path is at fault."""
    text = str(error)
    at = _AT.search(text)
    if at is None:
        return text, "", False
    return text[: at.start()], at[2].removeprefix("."), at[1] is not None


def _in_words(reason: str) -> str:
    if _MISSING.fullmatch(reason):
        return "the field is missing"
    refused = _NO_SUCH.fullmatch(reason)
    if refused:
        return f"{refused[1][:_MAX_ECHO]} is not one of the possible values"
    regex = _REGEX.fullmatch(reason)
    if regex:
        return _RULES.get(regex[1], "the text does not have the expected form")
    words = re.sub(r"`([^`]*)`", lambda quoted: re.sub(r"\w+", _json_type, quoted[1]), reason)
    return words[:1].lower() + words[1:]


def _json_type(word: re.Match[str]) -> str:
    return _TYPES.get(word[0], word[0])


def _readable_id(data: bytes | str) -> str | None:
    try:
        found = _any_frame.decode(data).id
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if isinstance(found, str) and is_id(found) else None


def _name_key(path: str, data: bytes | str, shape: Any) -> str:
    """msgspec writes `[...]` for any key of a mapping: find the first key that fails by itself.

    Each one is tried in a frame with nothing else in it, which keeps the work proportional to `data`.
    """
    field, _, rest = path.partition("[...]")
    rest = rest.partition("[...]")[0]
    try:
        fields = _raw_object.decode(data)
        entries = _raw_object.decode(fields[field])
    except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError):
        return field
    tag = {"type": fields["type"]} if "type" in fields else {}
    for key, value in entries.items():
        try:
            msgspec.json.decode(_encoder.encode({**tag, field: {key: value}}), type=shape)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            if not isinstance(error, msgspec.ValidationError) or _locate(error)[1].startswith(field):
                return f"{field}.{key[:_MAX_ECHO]}{rest}"
    return field


def _brackets(data: bytes | str) -> int:
    """An upper bound of the depth of the JSON, found much faster than the depth."""
    return data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")


def _check_depth(frame: ClientFrame, data: bytes | str) -> None:
    """Raises ProtocolError for a field that is nested deeper than other parts of the system could write again."""
    for field in frame.__struct_fields__:
        if _depth(getattr(frame, field)) >= MAX_DEPTH:
            problem = f"the field is nested too deeply, more than {MAX_DEPTH} levels"
            raise ProtocolError("invalid_frame", problem, path=field, frame_id=_readable_id(data))


def _depth(value: object) -> int:
    """How many lists and objects lie within one another; 0 for anything else."""
    depth = 0
    level: list[object] = [value]
    while level:
        inner: list[object] = []
        containers = 0
        for item in level:
            match item:
                case dict():
                    containers += 1
                    inner.extend(cast("dict[str, object]", item).values())
                case list():
                    containers += 1
                    inner.extend(cast("list[object]", item))
                case ToolSpec():
                    inner.append(item.parameters)
                case _:
                    pass
        depth += containers > 0
        level = inner
    return depth
