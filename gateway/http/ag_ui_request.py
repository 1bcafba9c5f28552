"""The body that an AG-UI client posts, a RunAgentInput (https://docs.ag-ui.com, version 1.0), as our message.

Only what is used is checked. The newest message of the user is the one that is sent; those before it are the context's
own, which the gateway has, and those after it what is left of an earlier try. `tools`, `context` and `state` have no
meaning here: a tool runs on the gateway or in a client with a session.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from gateway.http.front_ends import (
    Options,
    Part,
    data_image,
    decode_at,
    decode_body,
    image,
    last_user,
    new_message,
    one_content,
)
from protocol.errors import ProtocolError
from protocol.frames import Content, Id, SendMessage, TextPart

__all__ = ["RunRequest", "read_run"]


class _Props(Struct):
    tidegate: Options = Options()


class _Input(Struct):
    runId: Annotated[str, Meta(min_length=1, max_length=256)]  # noqa: N815 - the name on the wire
    messages: list[Raw]
    forwardedProps: Raw = Raw(b"null")  # noqa: N815 - the name on the wire


class _User(Struct):
    id: Id
    content: str | list[Raw]


class _Named(Struct):
    id: str


class _Source(Struct):
    type: str
    value: str
    mimeType: str | None = None  # noqa: N815 - the name on the wire


class _Part(Struct):
    type: str
    text: str = ""
    source: _Source | None = None


class RunRequest(Struct, frozen=True):
    """`known` are the client's messages, as id and JSON, up to the one that is sent; `leftover`: it has more."""

    message: SendMessage
    run_id: str
    known: list[tuple[str, bytes]]
    leftover: bool


def read_run(body: bytes, context_id: str) -> RunRequest:
    """Raises ProtocolError, which names the field."""
    run = decode_body(body, _Input)
    place = last_user(run.messages)
    path = f"messages[{place}]"
    user = decode_at(run.messages[place], _User, path)
    options = Options()
    if bytes(run.forwardedProps).startswith(b"{"):  # they may be anything
        options = decode_at(run.forwardedProps, _Props, "forwardedProps").tidegate
    return RunRequest(
        message=new_message(user.id, _content(user.content, f"{path}.content"), context_id, options),
        run_id=run.runId,
        known=[_known(message, n) for n, message in enumerate(run.messages[: place + 1])],
        leftover=place + 1 < len(run.messages),
    )


def _known(message: Raw, place: int) -> tuple[str, bytes]:
    # On one line, as an event's data must be.
    return decode_at(message, _Named, f"messages[{place}]").id, msgspec.json.format(bytes(message), indent=-1)


def _content(content: str | list[Raw], path: str) -> Content:
    if isinstance(content, str):
        return content
    return one_content([_part(raw, f"{path}[{n}]") for n, raw in enumerate(content)], path)


def _part(raw: Raw, path: str) -> Part:
    part: Any = decode_at(raw, _Part, path)
    if part.type == "text":
        return TextPart(text=part.text)
    if part.type != "image" or part.source is None:
        raise ProtocolError("invalid_frame", "only text and images can be sent", path=path)
    if part.source.type == "data":
        return image(part.source.mimeType or "", part.source.value, f"{path}.source")
    return data_image(part.source.value, f"{path}.source")
