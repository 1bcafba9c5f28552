"""What is remembered of a stream without an end is bounded, however it grows."""

from __future__ import annotations

from gateway.http.ag_ui_messages import KEPT, KEPT_BYTES, Messages, ToolResult, UserOrSystem
from tests.gateway.http.feeds import answered, asked


def _ids(messages: Messages) -> list[str]:
    return [told.id for told in messages]


def test_results_count_as_messages_do() -> None:
    messages = Messages(most=KEPT)
    for number in range(3 * KEPT):
        messages.assistant(f"m{number}").calls[f"c{number}"] = ("tool", "{}")
        for _ in range(5):
            messages.answer(ToolResult(answered(f"c{number}")))
        assert len(_ids(messages)) <= KEPT
    assert _ids(messages)[-1] == f"r_c{3 * KEPT - 1}"


def test_bytes_are_bounded_and_the_newest_is_kept() -> None:
    messages = Messages(most=KEPT)
    for number in range(5):
        messages.add(UserOrSystem(asked(f"u{number}", "x" * (KEPT_BYTES // 2))))
    assert _ids(messages) == ["u3", "u4"]
    messages.add(UserOrSystem(asked("huge", "x" * (2 * KEPT_BYTES))))
    assert _ids(messages) == ["huge"]
    messages.assistant("a").pieces.append("x" * KEPT_BYTES)
    messages.answer(ToolResult(answered("c1")))
    assert _ids(messages) == ["r_c1"]


def test_what_grew_since_it_was_added_counts() -> None:
    messages = Messages(most=KEPT)
    for number in range(4):
        told = messages.assistant(f"m{number}")
        told.pieces.extend(["x" * (KEPT_BYTES // 4)] * 3)
    assert len(_ids(messages)) == 2


def test_a_turn_that_ends_is_kept_whole() -> None:
    messages = Messages()
    for number in range(3 * KEPT):
        messages.add(UserOrSystem(asked(f"u{number}")))
    assert len(_ids(messages)) == 3 * KEPT
