from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.models.tokens import token_counter

O200K = [
    "gpt-4o",
    "gpt-4o-mini-2024-07-18",
    "chatgpt-4o-latest",
    "gpt-4.1-nano",
    "gpt-5",
    "gpt-5.1-mini",
    "o1",
    "o3-mini",
]
CL100K = ["gpt-4", "gpt-4-turbo", "gpt-4-0613", "gpt-3.5-turbo", "ft:gpt-3.5-turbo:acme::x"]
UNKNOWN = ["gpt-6", "gpt-40", "o1x", "o2", "o10", "my-gpt-4o", "gpt-4.2", "llama", "", "\n"]


def count(model: str, text: str) -> int:
    counter = token_counter("openai", model)
    assert counter is not None
    return counter(text)


@pytest.mark.parametrize("model", [*O200K, "o4-mini", "ft:gpt-4o:acme::x"])
def test_the_newer_models_have_the_newer_vocabulary(model: str) -> None:
    assert count(model, "お誕生日おめでとう") == 8


@pytest.mark.parametrize("model", CL100K)
def test_the_older_models_have_the_older_vocabulary(model: str) -> None:
    assert count(model, "お誕生日おめでとう") == 9


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("hello world", 2), ("tiktoken is great!", 6), ("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7)],
)
def test_known_counts(text: str, tokens: int) -> None:
    assert count("gpt-4", text) == count("gpt-4o", text) == tokens


@pytest.mark.parametrize("model", [*UNKNOWN, None])
def test_what_is_not_known_is_not_guessed(model: str | None) -> None:
    assert token_counter("openai", model) is None


@pytest.mark.parametrize("provider", ["anthropic", "local", "demo"])
def test_another_providers_model_is_another_model(provider: str) -> None:
    assert token_counter(provider, "gpt-4o") is None


def test_any_text_is_counted() -> None:
    assert count("gpt-4o", "<|endoftext|>") > 1
    assert count("gpt-4o", "half \ud83d of a pair") == count("gpt-4o", "half \ufffd of a pair")
    assert count("gpt-4o", "\x00") > 0


@pytest.mark.parametrize("text", ["a", "ab", " ", "\n", "1", "'", "😀", "\u0301", "<|endoftext|>"])
def test_a_long_text_is_the_sum_of_its_parts(text: str) -> None:
    """Where it is cut costs a token or two."""
    part = text * 8192
    whole = count("gpt-4o", part * 8)
    assert abs(whole - 8 * count("gpt-4o", part)) <= 16 * len(text)


def test_without_the_extra_there_is_none() -> None:
    program = (
        "import sys\nsys.modules['quicktok'] = None\n"
        "from gateway.models.tokens import token_counter\n"
        "assert token_counter('openai', 'gpt-4o') is None\nassert token_counter('openai', 'no-such') is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
