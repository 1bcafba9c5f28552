from __future__ import annotations

from typing import Final

import pytest

from gateway.models.provider_errors import Sdk, describe, model_error, reported_error


class Broken(Exception):
    """An error of an SDK."""

    body: object = None


class Reported(Broken):
    body = "overloaded: sk-secret"


SDK: Final = Sdk(
    timeout=(TimeoutError,), status=(), connection=(ConnectionError,), api=(Broken,), answer="a chat completion"
)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TimeoutError("sk-secret"), "provider_error", "took too long"),
        (ConnectionError("sk-secret"), "provider_error", "connection"),
        (ValueError("sk-secret"), "provider_error", "is not a chat completion"),
        (Broken("sk-secret"), "provider_error", "the model m failed"),
        (Reported("sk-secret"), "provider_overloaded", "overloaded"),
    ],
)
def test_an_error_is_told_in_our_words(error: Exception, code: str, words: str) -> None:
    told = model_error("m", error, SDK)
    assert (told.code, told.retryable, told.retry_after) == (code, True, None)
    assert words in told.message
    assert "secret" not in told.message


def test_only_the_beginning_of_a_body_is_looked_at() -> None:
    assert len(describe({"message": "x" * 100_000})) == len(describe("x" * 100_000)) == 4096
    assert describe(["rate_limit"]) == '["rate_limit"]'
    assert reported_error("m", "x" * 5000 + "overloaded").code == "provider_error"
