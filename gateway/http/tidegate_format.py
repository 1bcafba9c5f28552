"""The gateway's own frames as Server-Sent Events (docs/protocol.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.http.requests import frame_of
from protocol.frames import Event, SendMessage, Snapshot, TurnEnd

__all__ = ["TidegateFormat"]


class TidegateFormat:
    """The bytes that a socket is sent, each with its cursor as the event's id."""

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def over(self) -> bool:
        return False

    def request(self, body: bytes, context_id: str) -> SendMessage:
        """The body is the frame; its `type`, `context_id` and `id` may be left out."""
        return frame_of(body, SendMessage, context_id)

    def snapshot(self, frame: Snapshot, data: bytes, cursor: str) -> bytes:
        del frame
        return _written("snapshot", data, cursor)

    def event(self, event: Event, data: bytes, cursor: str) -> bytes:
        return _written(str(event.__struct_config__.tag), data, cursor)

    def end(self, end: TurnEnd | None) -> bytes:
        del end
        return b""


def _written(type: str, data: bytes, cursor: str) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor.encode(), type.encode(), data)
