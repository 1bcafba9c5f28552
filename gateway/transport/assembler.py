"""Frames to ASGI messages."""

from __future__ import annotations

from starlette.types import Message
from websockets.frames import Frame, Opcode

__all__ = ["Assembler"]


class Assembler:
    """Joins fragments. `websockets` has checked their order, and that they are no more than a message may be."""

    __slots__ = ("_fragments", "_kind")

    def __init__(self) -> None:
        self._kind = Opcode.TEXT
        self._fragments: bytearray | None = None

    def take(self, frame: Frame) -> tuple[Message, int] | None:
        """The message that the frame completes, and its size in bytes. Raises UnicodeDecodeError."""
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._kind = frame.opcode
            if frame.fin:
                return self._message(frame.data)
            self._fragments = bytearray(frame.data)
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            self._fragments += frame.data
            if frame.fin:
                data, self._fragments = self._fragments, None
                return self._message(data)
        return None

    def _message(self, data: bytes | bytearray | memoryview) -> tuple[Message, int]:
        if self._kind is Opcode.BINARY:
            return {"type": "websocket.receive", "bytes": bytes(data)}, len(data)
        return {"type": "websocket.receive", "text": str(data, "utf-8")}, len(data)
