"""What the formats of existing front ends share: requests that become a message, and text that is still missing."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, Raw, Struct

from protocol.codec import decode_client, encode, invalid_frame
from protocol.content import plain_text
from protocol.errors import ProtocolError
from protocol.frames import (
    MIME_TYPE_PATTERN,
    Content,
    ErrorBody,
    Id,
    ImagePart,
    Message,
    Name,
    SendMessage,
    Snapshot,
    TextPart,
    ToolResponse,
    WhenBusy,
)

__all__ = [
    "Options",
    "Part",
    "asked_turn",
    "data_image",
    "decode_at",
    "decode_body",
    "failure_text",
    "image",
    "last_user",
    "new_message",
    "one_content",
    "rest_of",
    "result_text",
    "sse",
    "turn_failure",
]

_T = TypeVar("_T")
_DATA_URL = re.compile(r"data:([A-Za-z0-9.+/\-]{1,80});base64,", re.ASCII)
_IMAGE = re.compile(MIME_TYPE_PATTERN)
_MAX_PARTS = 256

Part = TextPart | ImagePart


class Options(Struct, frozen=True):
    """The object `tidegate` in a front end's request: fields of our `message` for which its own format has no word."""

    model: Name | None = None
    tools: Annotated[list[Name], Meta(max_length=256)] | None = None
    resources: Annotated[list[str], Meta(max_length=64)] | None = None
    when_busy: WhenBusy = "queue"
    parent_id: Id | None = None
    replaces: Id | None = None
    metadata: dict[str, Any] | None = None


class _Said(Struct):
    role: str = ""


_said = msgspec.json.Decoder(_Said)


def decode_body(body: bytes, shape: type[_T]) -> _T:
    """The request's JSON; raises ProtocolError `invalid_frame` with the path."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise invalid_frame(error, body, shape) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError("invalid_frame", "the body is not valid JSON") from error


def decode_at(data: Raw, shape: type[_T], path: str) -> _T:
    """A part of the body that was left as it is; raises ProtocolError with its place in the body."""
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        refused = invalid_frame(error, bytes(data), shape)
        inner = refused.path
        raise ProtocolError("invalid_frame", refused.message, path=f"{path}.{inner}" if inner else path) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError("invalid_frame", "the value is not valid JSON", path=path) from error


def last_user(messages: list[Raw]) -> int:
    """Where the newest message of the user stands; raises ProtocolError where there is none."""
    for place in range(len(messages) - 1, -1, -1):
        if decode_at(messages[place], _Said, f"messages[{place}]").role == "user":
            return place
    raise ProtocolError("invalid_frame", "there is no message of the user", path="messages")


def new_message(id: str, content: Content, context_id: str, options: Options) -> SendMessage:
    """The frame, checked as one that came over a socket."""
    frame = decode_client(
        encode(
            SendMessage(
                id=id,
                content=content,
                context_id=context_id,
                model=options.model,
                tools=options.tools,
                resources=options.resources,
                when_busy=options.when_busy,
                parent_id=options.parent_id,
                replaces=options.replaces,
                metadata=options.metadata,
            )
        )
    )
    return cast("SendMessage", frame)


def one_content(parts: list[Part], path: str) -> Content:
    """The parts as our content: a string where all is text."""
    if not parts:
        raise ProtocolError("invalid_frame", "the message has neither text nor images", path=path)
    if len(parts) > _MAX_PARTS:
        raise ProtocolError("invalid_frame", f"a message has {_MAX_PARTS} parts at most", path=path)
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return list[Any](parts)


def image(mime_type: str, data: str, path: str) -> ImagePart:
    if _IMAGE.match(mime_type) is None:
        raise ProtocolError("invalid_frame", "of files, only images can be sent", path=path)
    return ImagePart(mime_type=mime_type, data=data)


def data_image(url: str, path: str) -> ImagePart:
    """The image in a `data:` URL."""
    found = _DATA_URL.match(url)
    if found is None:
        raise ProtocolError("invalid_frame", "an image is sent as base64, not by its address", path=path)
    return image(found[1], url[found.end() :], path)


# ---- what is written


def sse(chunk: object) -> bytes:
    """One Server-Sent Event without a name: what is written for these front ends can't be resumed at a place within."""
    return b"data: %b\n\n" % msgspec.json.encode(chunk)


def asked_turn(frame: Snapshot, message_id: str) -> str:
    """The turn of the message that was posted: another's where it steered that one."""
    turns = (event.turn_id for event in frame.events if isinstance(event, Message) and event.id == message_id)
    return next(turns, None) or message_id


def rest_of(message: Message, given: str) -> str | None:
    """What a reader lacks of a finished message's text who has `given`; None where that is not its beginning."""
    whole = plain_text(message.content)
    return whole[len(given) :] if whole.startswith(given) else None


def result_text(response: ToolResponse) -> str:
    """A call's result as text; why it has none, where it failed without one."""
    if response.result is None and response.error is not None:
        return response.error.message
    if isinstance(response.result, str):
        return response.result
    return json.dumps(response.result, ensure_ascii=False, separators=(",", ":"))


def failure_text(response: ToolResponse) -> str:
    """Why a call has no result, for a person."""
    if response.error is not None:
        return response.error.message
    if response.result is None:
        return f"the call ended as {response.status}"
    return result_text(response)


def turn_failure(error: ErrorBody | None) -> tuple[str, str]:
    """The code and the words of a turn that failed."""
    return (error.code, error.message) if error is not None else ("internal", "the turn failed")
