"""Frames that are built once."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from gateway.transport.port import Frames, text_frame

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 200_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_text_frame_is_what_the_library_makes(size: int) -> None:
    assert text_frame(b"x" * size) == Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)


def test_the_wire_bytes_of_frames_are_built_once() -> None:
    frames = Frames([b"a", b"b"])
    assert frames.wire == text_frame(b"a") + text_frame(b"b")
    assert frames.wire is frames.wire
