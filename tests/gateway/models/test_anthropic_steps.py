from __future__ import annotations

from typing import Any

from gateway.models.anthropic_steps import Steps, running_steps, step_key
from gateway.models.port import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput

BLOCKS = [{"type": "thinking", "thinking": "é" * 50, "signature": "s"}]


def called(id: str, text: str = "", **parameters: Any) -> AssistantInput:
    return AssistantInput(text, [CallInput(id, "f", parameters)])


def result(id: str, content: str = "r") -> ToolResultInput:
    return ToolResultInput(id, content, is_error=False)


def test_the_least_recently_used_is_forgotten() -> None:
    steps = Steps(max_steps=2)
    steps.remember(b"a", BLOCKS)
    steps.remember(b"b", BLOCKS)
    assert steps.recall(b"a") == BLOCKS
    steps.remember(b"c", BLOCKS)
    assert steps.recall(b"b") is None
    assert steps.recall(b"a") == steps.recall(b"c") == BLOCKS


def test_bytes_are_bounded_too() -> None:
    steps = Steps(max_bytes=400)
    for _ in range(5):
        steps.remember(b"a", BLOCKS)
    steps.remember(b"b", BLOCKS)
    assert steps.recall(b"a") == BLOCKS
    steps.remember(b"c", BLOCKS)
    assert steps.recall(b"b") is None
    steps.remember(b"d", BLOCKS * 10)
    assert steps.recall(b"d") is None
    steps.remember(b"e", BLOCKS)
    assert steps.recall(b"e") == BLOCKS


def test_what_is_recalled_can_be_changed_without_harm() -> None:
    steps = Steps()
    steps.remember(b"a", BLOCKS)
    recalled = steps.recall(b"a")
    assert recalled is not None
    recalled[0]["thinking"] = ""
    assert steps.recall(b"a") == BLOCKS


def test_a_step_is_known_again_by_what_does_not_change() -> None:
    asked = TextInput("user", "look")
    key = step_key("me", [asked], called("", "a", x=1, y=2))
    earlier: list[ModelInput] = [TextInput("user", "before"), AssistantInput("done"), TextInput("system", "s")]
    assert step_key("me", [*earlier, asked, TextInput("system", "s")], called("id", "a", y=2, x=1)) == key
    others = [
        step_key("you", [asked], called("", "a", x=1, y=2)),
        step_key("me", [TextInput("user", "look!")], called("", "a", x=1, y=2)),
        step_key("me", [asked], called("", "b", x=1, y=2)),
        step_key("me", [asked], called("", "a", x=1, y=3)),
        step_key("me", [asked, called("z"), result("z")], called("", "a", x=1, y=2)),
    ]
    assert len({key, *others}) == 6


def test_a_result_may_be_shortened() -> None:
    asked = TextInput("user", "look")
    keys = {step_key("me", [asked, called("z"), result("z", content)], called("")) for content in ("long", "l")}
    assert len(keys) == 1


def test_the_running_loop() -> None:
    asked, steered, system = TextInput("user", "look"), TextInput("user", "faster"), TextInput("system", "s")
    one, two = [called("1"), result("1")], [called("2"), result("2")]
    assert running_steps([asked]) == []
    assert running_steps([asked, *one]) == [1]
    assert running_steps([asked, *one, *two]) == [1, 3]
    assert running_steps([asked, *one, steered, system, steered, *two]) == [1, 6]
    assert running_steps([asked, *one, AssistantInput("done")]) == []
    assert running_steps([asked, *one, AssistantInput("done"), asked, *two]) == [5]
    assert running_steps([asked, called("0"), asked, *two]) == [3]
