"""What is shown as text that flows."""

from __future__ import annotations

from gateway.chat.page import Page, asked_line, ended_line
from gateway.chat.shown import Anew, Called, Ended, Finished, Over, Piece, Said, Shown, Titled
from tests.gateway.chat.events import call


def text(page: Page, *shown: Shown) -> str:
    return "".join(run.text for run in page.write(shown))


def test_an_answer_flows_and_a_new_thing_begins_a_line() -> None:
    page = Page()
    assert text(page, Said("t", "one\ntwo", mine=True)) == "\n> one\n  two\n"
    assert text(page, Piece("a", "reasoning", "hm"), Piece("a", "text", "yes ")) == "hm\nyes "
    assert text(page, Piece("a", "text", "it is"), Anew("a")) == "it is\n(the answer begins again)\n"
    assert text(page, Piece("a", "text", "no"), Finished("a"), Over("t", "cancelled", "stopped")) == "no\nstopped\n"


def test_what_a_tool_answered_waits_for_the_end_of_the_message() -> None:
    page = Page()
    ended = Ended(call("x", "t"), "success", {"deep": 3})
    assert text(page, Piece("a", "text", "and "), Called(call("x", "t")), ended, Piece("a", "text", "so")) == "and so"
    assert text(page, Finished("a")) == '\n✓ dig {"n":1} → {"deep":3}\n'
    assert text(page, ended) == '✓ dig {"n":1} → {"deep":3}\n'


def test_reasoning_can_be_hidden() -> None:
    page = Page(reasoning=False)
    assert text(page, Piece("a", "reasoning", "hm"), Piece("a", "text", "yes")) == "yes"


def test_nothing_of_others_reaches_the_terminal_as_a_command() -> None:
    page = Page()
    bad = "\x1b[2J\x07"
    shown = [
        Said("t", bad, mine=False),
        Piece("a", "text", bad),
        Finished("a"),
        Ended(call("x", "t", parameters={bad: bad}), "error", bad),
        Over("t", "failed", bad),
        Titled(bad),
    ]
    assert "\x1b" not in text(page, *shown)
    assert "\x07" not in text(page, *shown)
    assert "\x1b" not in "".join(run.text for run in page.line(bad))


def test_calls_in_one_line() -> None:
    assert ended_line(Ended(None, "interrupted", None)) == "✗ a tool → interrupted"
    assert ended_line(Ended(call("x", "t"), "error", "no\nspade")) == '✗ dig {"n":1} → error: no spade'
    parameters = {"word": "x" * 5000}
    assert "x" * 5000 in asked_line(call("x", "t", parameters=parameters)), "who decides sees all of it"
    assert len(ended_line(Ended(call("x", "t", parameters=parameters), "success", "y" * 5000))) < 400


def test_questions_in_words() -> None:
    asked = call(
        "q", "t", message_id=None, approval="required", asked_by="x", parameters={"message": "Which\n\x1bone?"}
    )
    assert asked_line(asked) == "dig asks: Which\none?"
    assert ended_line(Ended(asked, "success", {"city": "Rome"})) == 'dig: answered {"city":"Rome"}'
    assert ended_line(Ended(asked, "success", {})) == "dig: answered"
    assert ended_line(Ended(asked, "denied", "no")) == "dig: declined no"
    assert ended_line(Ended(asked, "cancelled", None)) == "dig: not answered"
