from __future__ import annotations

from typing import Literal

import pytest

from gateway.core.inputs import AssistantInput, CallInput, ModelInput, TextInput, ToolResultInput
from gateway.core.tokens import Calibration, Weight, guess, rough_count
from protocol.frames import ImagePart, ResourcePart, TextPart


@pytest.mark.parametrize("kind", ["text", "parts", "assistant", "call", "result"])
def test_the_guess_grows_with_the_text(kind: Literal["text", "parts", "assistant", "call", "result"]) -> None:
    def item(size: int) -> ModelInput:
        text = "word " * size
        match kind:
            case "text":
                return TextInput("user", text)
            case "parts":
                return TextInput("user", [TextPart(text=text), ResourcePart(uri="docs:1")])
            case "assistant":
                return AssistantInput(text)
            case "call":
                return AssistantInput("", (CallInput("c1", "charge", {"text": text}),))
            case "result":
                return ToolResultInput("c1", text, is_error=False)

    assert guess(item(4000), rough_count) - guess(item(0), rough_count) == 4000
    assert guess(item(0), rough_count) > 0


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("Hello, world!", 4, 4),
        ("internationalisation", 2, 5),
        ("x = [y ** 2 for y in range(10)]", 14, 18),
        ("海は広いですね。", 7, 9),
        ("Die Straße führt über die Brücke.", 7, 14),
        ("2026-11-26", 10, 10),
    ],
)
def test_what_a_text_may_have_of_tokens(text: str, least: int, most: int) -> None:
    assert least <= rough_count(text) <= most


def test_of_a_long_text_a_part_is_looked_at() -> None:
    assert rough_count("word " * 200_000) == pytest.approx(200_000, rel=0.01)
    assert rough_count("a" * 1_000_000) == pytest.approx(125_000, rel=0.01)


def test_an_image_costs_the_same_however_many_bytes_it_has() -> None:
    def image(size: int) -> TextInput:
        return TextInput("user", [ImagePart(mime_type="image/png", data="A" * size)])

    assert guess(image(4), rough_count) == guess(image(400_000), rough_count)


def test_images_of_a_result_count() -> None:
    png = ImagePart(mime_type="image/png", data="AAAA")
    plain, drawn = (ToolResultInput("c1", "x", is_error=False, images=images) for images in ((), (png, png)))
    assert guess(drawn, rough_count) - guess(plain, rough_count) == 2 * 1024


def test_weights_add_up() -> None:
    assert Weight(1, 2).plus(Weight(10, 20)) == Weight(11, 22)


def test_a_figure_of_the_provider_is_believed_at_once() -> None:
    calibration = Calibration()
    assert calibration.tokens(Weight(5, 100)) == 105
    calibration.observe(Weight(5, 100), 155)
    assert calibration.learnt
    assert calibration.tokens(Weight(5, 100)) == 155


def test_later_figures_count_at_their_rate() -> None:
    calibration = Calibration(rate=0.5)
    calibration.observe(Weight(0, 100), 200)
    calibration.observe(Weight(0, 100), 100)
    assert calibration.ratio == 1.5


@pytest.mark.parametrize(("weight", "tokens"), [(Weight(0, 100), 0), (Weight(0, 100), 10**9), (Weight(7, 0), 7)])
def test_a_figure_that_cannot_be_true_is_passed_over(weight: Weight, tokens: int) -> None:
    calibration = Calibration()
    calibration.observe(weight, tokens)
    assert not calibration.learnt
    assert calibration.ratio == 1


def test_what_was_too_long_weighs_more_from_then_on() -> None:
    calibration = Calibration()
    calibration.too_low()
    assert calibration.ratio == 1.25
    for _ in range(50):
        calibration.too_low()
    assert calibration.ratio == 8
