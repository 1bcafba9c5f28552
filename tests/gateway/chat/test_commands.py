"""Lines to what they ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.commands import HELP, Command, Say, Wrong, parse


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", None),
        ("  \n ", None),
        (" hello there ", Say("hello there")),
        ("//etc is a folder", Say("/etc is a folder")),
        ("say /stop", Say("say /stop")),
        ("/stop", Command("stop")),
        ("/STOP ", Command("stop")),
        ("/edit", Command("edit")),
        ("/edit  two  words ", Command("edit", "two  words")),
        ("/open 3", Command("open", "3")),
        ("/title Tides\nand gates", Command("title", "Tides\nand gates")),
    ],
)
def test_lines(line: str, asked: object) -> None:
    assert parse(line) == asked


@pytest.mark.parametrize(
    ("line", "word"),
    [("/halt", "/help"), ("/", "/help"), ("/stop now", "nothing after"), ("/open", "N|ID"), ("/title ", "TEXT")],
)
def test_wrong_lines_say_what_is_wrong(line: str, word: str) -> None:
    asked = parse(line)
    assert isinstance(asked, Wrong)
    assert word in asked.reason


@given(st.text())
def test_any_text_can_be_said(text: str) -> None:
    said = text.strip()
    if said:
        assert parse("/" + said if said.startswith("/") else said) == Say(said)


def test_the_help_names_every_command() -> None:
    for name in ("stop", "retry", "edit", "contexts", "open", "new", "title", "model", "tools", "approve", "deny"):
        assert f"/{name}" in HELP
