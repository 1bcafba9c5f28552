from __future__ import annotations

from itertools import chain

import pytest

from gateway.core.digest import MAX_TITLE, clean_title, due, summary_prompt, title_prompt, transcript
from gateway.core.inputs import TextInput
from gateway.core.thread import Node, Thread
from protocol.frames import DurableEvent, ImagePart, ResourcePart, TextPart
from tests.gateway.core.conversations import answer, call, end, message, turn


def nodes(*turns: list[DurableEvent]) -> list[Node]:
    """The path of a conversation of these turns, newest first."""
    thread = Thread()
    thread.older(list(enumerate(chain.from_iterable(turns), start=1)), reaches=True)
    last = thread.last
    assert last is not None
    return list(thread.path(last.id))


def conversation(length: int) -> list[Node]:
    return nodes(*[turn(f"t{n}") for n in range(1, length + 1)])


def one(node: Node) -> float:
    return 1


def names(turns: list[Node]) -> list[str]:
    return [node.id for node in turns]


# ---- what is to be summarised


def test_nothing_is_due_while_there_is_room() -> None:
    assert due(conversation(6), None, 10, one) == []


def test_the_oldest_are_summarised_and_the_newest_stay() -> None:
    assert names(due(conversation(8), None, 10, one)) == ["t1", "t2", "t3", "t4", "t5"]
    assert names(due(conversation(7), None, 10, one)) == ["t1", "t2", "t3", "t4"]


def test_what_a_summary_covers_is_not_summarised_again() -> None:
    path = conversation(12)
    assert names(due(path, "t4", 10, one)) == ["t5", "t6", "t7", "t8", "t9"]
    assert due(path, "t6", 10, one) == []


def test_a_long_conversation_is_summarised_piece_by_piece() -> None:
    path = conversation(40)
    assert names(due(path, None, 10, one)) == ["t1", "t2", "t3", "t4", "t5"]


def test_a_turn_that_is_longer_than_a_piece_is_summarised_whole() -> None:
    path = conversation(3)
    assert names(due(path, None, 10, lambda node: 9 if node.id == "t1" else 1)) == ["t1"]
    assert names(due(path, None, 10, lambda node: 9 if node.id == "t3" else 1)) == ["t1", "t2"]


def test_the_newest_turn_is_never_summarised() -> None:
    assert due(conversation(1), None, 10, lambda node: 100) == []


# ---- what a model is asked


def test_a_conversation_in_plain_text() -> None:
    parts = [
        TextPart(text="look"),
        ImagePart(mime_type="image/png", data="AAAA"),
        ResourcePart(uri="docs:1"),
    ]
    steps = [message("u", "u", content=parts), call("c1", "u", "a"), answer("c1", "u")]
    path = nodes([message("rules", None, "system")], [*steps, message("a", "u", "assistant", ""), end("u")], turn("t"))
    assert transcript(path[::-1], 10_000) == (
        "System: rules\n[Resource docs:1 was not read]\nUser: look [an image] [docs:1]\n"
        'Tool charge {"amount":1} answered: paid\nUser: t\nAssistant: ta'
    )


def test_what_is_very_long_is_shown_in_part() -> None:
    text = transcript(nodes([*turn("t")[:1], message("a", "t", "assistant", "x" * 10_000), end("t")]), 10_000)
    assert len(text) < 5_000
    assert text.endswith("[…]")


def test_a_turn_of_many_long_results_is_told_in_the_room_there_is() -> None:
    calls = [call(f"c{n}", "t", "a") for n in range(40)]
    answers = [answer(f"c{n}", "t", "line\n" * 2_000) for n in range(40)]
    path = nodes([message("t", "t"), *calls, message("a", "t", "assistant"), *answers, end("t")])
    text = transcript(path, 20_000)
    assert 5_000 < len(text) <= 20_000
    assert text.count("Tool charge") == 40
    cut = transcript(path, 1_000)
    assert len(cut) <= 1_000
    assert cut.startswith("User: t\n")
    assert cut.endswith("[…]")
    assert "\n[…]\n" in cut


def test_a_title_is_asked_for_with_the_conversation() -> None:
    rules, asked = title_prompt(conversation(1))
    assert isinstance(rules, TextInput)
    assert rules.role == "system"
    assert asked == TextInput("user", "User: t1\nAssistant: t1a")


def test_a_summary_goes_on_from_the_one_before() -> None:
    rules, asked = summary_prompt("They met.", conversation(1), 50, 1_000)
    assert "at most 50 words" in str(rules)
    assert asked == TextInput("user", "[Summary of what was said before]\nThey met.\n\nUser: t1\nAssistant: t1a")
    assert summary_prompt(None, conversation(1), 50, 1_000)[1] == TextInput("user", "User: t1\nAssistant: t1a")


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ('"A day at sea"\n', "A day at sea"),
        ("**Two\n lines**", "Two lines"),
        ("", None),
        (' "" ', None),
        ("x" * 200, "x" * (MAX_TITLE - 1) + "…"),
    ],
)
def test_a_title_is_one_line(answer: str, title: str | None) -> None:
    assert clean_title(answer) == title
