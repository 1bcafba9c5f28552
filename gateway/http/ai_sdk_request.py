"""The body that the AI SDK's DefaultChatTransport posts (https://ai-sdk.dev, stream protocol v1) as our message.

Only the newest message is read: those before it are the context's own, which the gateway has. An answer that is asked
for again, and a question that was edited, are messages of their own which name the one that they replace.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from gateway.http.front_ends import Options, Part, data_image, decode_at, decode_body, new_message, one_content
from protocol.errors import ProtocolError
from protocol.frames import Id, SendMessage, TextPart
from protocol.ids import new_id

__all__ = ["read_chat"]


class _Chat(Struct):
    messages: list[Raw]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: str | None = None  # noqa: N815 - the name on the wire
    tidegate: Options = Options()


class _User(Struct):
    id: Id
    role: str
    parts: list[Raw]


class _Part(Struct):
    type: str
    text: str = ""
    url: str = ""


def read_chat(body: bytes, context_id: str) -> SendMessage:
    """Raises ProtocolError, which names the field."""
    chat = decode_body(body, _Chat)
    if not chat.messages:
        raise ProtocolError("invalid_frame", "there is no message", path="messages")
    path = f"messages[{len(chat.messages) - 1}]"
    user = decode_at(chat.messages[-1], _User, path)
    if user.role != "user":
        # An answer can't be continued by its front end: approvals and results of tools have doors of their own.
        raise ProtocolError("invalid_frame", "the last message must be the user's", path=f"{path}.role")
    parts = [part for n, raw in enumerate(user.parts) if (part := _part(raw, f"{path}.parts[{n}]")) is not None]
    content = one_content(parts, f"{path}.parts")
    again = chat.trigger == "regenerate-message" or chat.messageId == user.id
    if again and chat.tidegate.replaces is None:
        options = Options(
            model=chat.tidegate.model,
            tools=chat.tidegate.tools,
            resources=chat.tidegate.resources,
            when_busy=chat.tidegate.when_busy,
            replaces=user.id,
            metadata=chat.tidegate.metadata,
        )
        return new_message(new_id("msg_"), content, context_id, options)
    return new_message(user.id, content, context_id, chat.tidegate)


def _part(raw: Raw, path: str) -> Part | None:
    part = decode_at(raw, _Part, path)
    if part.type == "text":
        return TextPart(text=part.text)
    if part.type == "file":
        return data_image(part.url, f"{path}.url")
    return None  # what only the front end has a use for, as its `data-` parts
