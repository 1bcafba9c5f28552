"""What ends a chat, in one line."""

from __future__ import annotations

import pytest

from gateway.chat.trouble import explain
from gateway.client_errors import Disconnected, Lost, Refused

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    "error", [Disconnected(4401, "not valid"), Disconnected(401, "x"), Refused("unauthenticated", "x")]
)
def test_whoever_lacks_credentials_is_told_how_to_get_them(error: Exception) -> None:
    told = explain(error, URL)
    assert "'tidegate keys create --subject me'" in told
    assert "'TIDEGATE_TOKEN=<the key> tidegate chat'" in told


def test_a_gateway_that_is_not_there_is_named_with_the_cause() -> None:
    error = Disconnected(None, "not reached")
    assert explain(error, URL) == f"no gateway answers at {URL}: not reached"
    error.__cause__ = OSError("Connect call failed")
    assert explain(error, URL) == f"no gateway answers at {URL}: Connect call failed"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Disconnected(4403, "not allowed"), f"{URL} ended the session: not allowed (4403)"),
        (Refused("invalid_frame", "no\x1b[2J\nid"), "refused: no[2J id"),
        (Lost("chat", "t"), "too much happened meanwhile in chat: read the turn t from its history"),
        (ValueError("there is no message"), "there is no message"),
    ],
)
def test_all_else_is_one_line(error: Exception, words: str) -> None:
    assert explain(error, URL) == words
