"""Running tools as rows."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from gateway.chat.bars import bars
from protocol.frames import Running
from tests.gateway.chat.events import call


def row(running: Running, width: int = 80) -> str:
    (drawn,) = bars([running], width, colour=False)
    return drawn


def test_a_bar_has_a_name_how_far_it_is_and_what_the_tool_says() -> None:
    drawn = row(Running(call=call("x", "t"), progress=1, total=4, message="contacting the bank"))
    assert re.fullmatch(r"dig ━+╸?╺? *1/4 contacting the bank *", drawn), drawn
    assert "dig" in row(Running(call=call("x", "t")))
    assert " 2.5 " in row(Running(call=call("x", "t"), progress=2.5)) + " "


@pytest.mark.parametrize("width", [9, 20, 40])
def test_a_row_fits_whatever_the_tool_says(width: int) -> None:
    said = "[red]words\x1b[2J\n" * 100
    running = Running(call=call("x", "t"), progress=1e300, total=3, message=said)
    drawn = row(running, width)
    assert cell_len(drawn) <= width
    assert "\x1b" not in drawn
    assert "\n" not in drawn


def test_colours_can_be_left_out() -> None:
    running = Running(call=call("x", "t"), progress=1, total=2)
    assert "\x1b[" in bars([running], 60)[0]
    assert "\x1b[" not in row(running)
