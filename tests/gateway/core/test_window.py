from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest

from gateway.core.inputs import ModelInput, TextInput, ToolResultInput
from gateway.core.thread import Node, Thread
from gateway.core.window import Cut, TooLong, Window, choose, shorten
from protocol.frames import DurableEvent, ImagePart
from tests.gateway.core.conversations import message, turn


def thread_of(*turns: Sequence[DurableEvent]) -> Thread:
    thread = Thread()
    thread.older(list(enumerate(chain.from_iterable(turns), start=1)), reaches=True)
    return thread


def conversation(length: int) -> Thread:
    """Turns `t1`, `t2`, …, and `now`."""
    return thread_of(*[turn(f"t{n}") for n in range(1, length + 1)], [message("now", "now")])


def one(node: Node) -> float:
    return 1


def given(window: Window) -> list[str]:
    return [node.id for node in window.turns]


# ---- what fits


def test_all_is_given_while_it_fits() -> None:
    window = choose(conversation(3).path("now"), 4, one)
    assert given(window) == ["t1", "t2", "t3", "now"]
    assert window.cut is None
    assert window.summary is None


def test_a_cut_leaves_room_for_the_turns_to_come() -> None:
    window = choose(conversation(12).path("now"), 10, one)
    assert given(window) == ["t7", "t8", "t9", "t10", "t11", "t12", "now"]
    assert window.cut == Cut("t7")


def test_a_cut_stays_where_it_is_until_the_room_is_used_up() -> None:
    last = None
    begins: list[str] = []
    for length in range(1, 25):
        window = choose(conversation(length).path("now"), 10, one, last=last)
        assert len(window.turns) <= 10
        last = window.cut
        begins.append(window.turns[0].id)
    assert begins == ["t1"] * 9 + ["t5"] * 4 + ["t9"] * 4 + ["t13"] * 4 + ["t17"] * 3


def test_nothing_older_follows_what_did_not_fit() -> None:
    thread = thread_of([message("short", None)], turn("long"), [message("now", "now")])
    window = choose(thread.path("now"), 2, lambda node: 5 if node.id == "long" else 1)
    assert given(window) == ["now"]
    assert window.cut == Cut("now")


def test_a_cut_of_another_path_means_nothing() -> None:
    assert given(choose(conversation(3).path("now"), 10, one, last=Cut("elsewhere"))) == ["t1", "t2", "t3", "now"]


def test_a_turn_that_does_not_fit_alone_is_refused() -> None:
    with pytest.raises(TooLong):
        choose(conversation(3).path("now"), 0.5, one)


# ---- pins


def test_what_is_pinned_is_given_wherever_it_stands() -> None:
    thread = conversation(12)
    window = choose(thread.path("now"), 6, one, pinned=[thread["t2"], thread["t12"], thread["now"]])
    assert [node.id for node in window.pinned] == ["t2"]
    assert given(window) == ["t11", "t12", "now"]


def test_what_is_pinned_takes_its_room_before_the_rest() -> None:
    thread = conversation(3)
    with pytest.raises(TooLong):
        choose(thread.path("now"), 1, one, pinned=[thread["t1"]])


# ---- summaries


def test_the_newest_summary_on_the_path_stands_for_what_it_covers() -> None:
    window = choose(conversation(12).path("now"), 10, one, summaries={"t3": 2, "t8": 2, "elsewhere": 2})
    assert given(window) == ["t9", "t10", "t11", "t12", "now"]
    assert window.cut == Cut("t9", "t8")
    assert window.summary == "t8"


def test_a_summary_is_not_used_while_all_fits() -> None:
    window = choose(conversation(3).path("now"), 10, one, summaries={"t2": 1})
    assert given(window) == ["t1", "t2", "t3", "now"]
    assert window.summary is None


def test_a_summary_that_is_far_behind_leaves_a_gap_rather_than_nothing() -> None:
    window = choose(conversation(30).path("now"), 10, one, summaries={"t2": 2})
    assert given(window) == ["t27", "t28", "t29", "t30", "now"]
    assert window.summary == "t2"


def test_a_summary_stays_until_the_room_is_used_up() -> None:
    last = Cut("t9", "t8")
    window = choose(conversation(13).path("now"), 10, one, summaries={"t8": 2, "t11": 2}, last=last)
    assert window.cut == last
    window = choose(conversation(17).path("now"), 10, one, summaries={"t8": 2, "t11": 2}, last=last)
    assert window.cut == Cut("t12", "t11")


def test_a_cut_with_a_summary_is_made_anew_where_both_do_not_fit() -> None:
    window = choose(conversation(12).path("now"), 10, one, summaries={"t2": 5}, last=Cut("t3", "t2"))
    assert given(window) == ["t12", "now"]


def test_a_summary_that_does_not_fit_beside_the_turn_is_left_out() -> None:
    window = choose(conversation(12).path("now"), 10, one, summaries={"t8": 9.5})
    assert window.summary is None
    assert len(window.turns) == 7


# ---- one turn that is too long


def result(length: int) -> ToolResultInput:
    return ToolResultInput("c", "x" * length, is_error=False)


def cost(item: ModelInput) -> float:
    assert not isinstance(item, TextInput) or isinstance(item.content, str)
    return len(item.content)


def test_long_results_lose_their_middle() -> None:
    inputs: list[ModelInput] = [TextInput("user", "how?"), result(50_000), result(1_000), result(30_000)]
    shorter = shorten(inputs, 20_000, cost)
    assert shorter is not None
    assert sum(map(cost, shorter)) <= 20_000
    assert shorter[0] == inputs[0]
    assert shorter[2] == inputs[2]
    assert "characters are left out here" in str(shorter[1])


def test_what_fits_is_left_as_it_is() -> None:
    assert shorten([result(5_000)], 5_000, cost) == [result(5_000)]


def test_what_a_person_said_is_not_shortened() -> None:
    assert shorten([TextInput("user", "x" * 5_000), result(600)], 1_000, cost) is None


def test_what_was_read_for_a_message_loses_its_middle() -> None:
    read = TextInput("user", "x" * 5_000, resource="docs:a")
    shorter = shorten([read, TextInput("user", "how?"), result(600)], 3_000, cost)
    assert shorter is not None
    assert sum(map(cost, shorter)) <= 3_000
    assert "characters are left out here" in str(shorter[0].content)
    seen = TextInput("user", [ImagePart(mime_type="image/png", data="AAAA")], resource="docs:a")
    assert shorten([seen], 0, lambda _: 1.0) is None


def test_images_of_results_are_left_out_where_texts_are_not_enough() -> None:
    def cost_of_images(item: ModelInput) -> float:
        return cost(item) + 1_000 * len(item.images) if isinstance(item, ToolResultInput) else cost(item)

    png = ImagePart(mime_type="image/png", data="AAAA")
    drawn = ToolResultInput("c", "x" * 600, is_error=False, images=(png, png))
    inputs: list[ModelInput] = [TextInput("user", "how?"), drawn, result(5_000), drawn]
    shorter = shorten(inputs, 4_500, cost_of_images)
    assert shorter is not None
    assert sum(map(cost_of_images, shorter)) <= 4_500
    images = [len(item.images) for item in shorter if isinstance(item, ToolResultInput)]
    assert images == [0, 0, 2]
    assert "2 images are left out here" in str(shorter[1])
    assert shorten([drawn], 500, cost_of_images) is None
