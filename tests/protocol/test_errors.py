from __future__ import annotations

from typing import get_args

import pytest

from protocol.errors import CLOSE_CODES, ERRORS, Close, ErrorCode, ProtocolError


def test_every_code_has_a_row() -> None:
    assert set(ERRORS) == set(get_args(ErrorCode))


@pytest.mark.parametrize(
    ("code", "http", "retryable"),
    [
        ("invalid_frame", 400, False),
        ("too_large", 413, False),
        ("unauthenticated", 401, False),
        ("forbidden", 403, False),
        ("not_found", 404, False),
        ("conflict", 409, False),
        ("busy", 409, False),
        ("rate_limited", 429, True),
        ("unavailable", 503, True),
        ("context_too_long", 400, False),
        ("internal", 500, True),
    ],
)
def test_the_table_of_the_contract(code: ErrorCode, http: int, retryable: bool) -> None:
    assert ERRORS[code] == (http, retryable)


def test_an_error_follows_the_table_unless_told_otherwise() -> None:
    assert ProtocolError("rate_limited", "slow down").retryable
    assert ProtocolError("provider_error", "broken", retryable=True).retryable
    error = ProtocolError("rate_limited", "slow down", path="id", retry_after=1.5, retryable=False, frame_id="a")
    assert (error.code, error.message, error.path, error.retry_after) == ("rate_limited", "slow down", "id", 1.5)
    assert (error.retryable, error.frame_id, str(error)) == (False, "a", "rate_limited: slow down")


def test_what_a_client_does_after_a_close() -> None:
    assert {code for code, info in CLOSE_CODES.items() if info.then is Close.STOP} == {1003, 1009, 4400, 4403, 4409}
    assert {code for code, info in CLOSE_CODES.items() if info.then is Close.REAUTHENTICATE} == {4401}
    assert {code for code, info in CLOSE_CODES.items() if info.then is Close.RECONNECT} == {1001, 1012, 4408, 4429}
