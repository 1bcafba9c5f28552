from __future__ import annotations

import pytest

from gateway.auth.origin import origin_allowed

OWN = ("gate.example:8000", "http")


def test_what_is_not_a_browser_has_no_origin() -> None:
    assert origin_allowed(None, *OWN, [])


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("http://gate.example:8000", "gate.example:8000", "http"),
        ("http://gate.example:8000", "gate.example:8000", "ws"),
        ("https://gate.example", "gate.example:443", "wss"),
        ("https://gate.example:443", "gate.example", "https"),
        ("HTTP://Gate.Example", "gate.example", "http"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
    ],
)
def test_its_own_origin_is_allowed_by_default(origin: str, host: str, scheme: str) -> None:
    assert origin_allowed(origin, host, scheme, [])


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "gate.example:8000",
        "https://gate.example:8000",
        "http://gate.example",
        "http://gate.example:8001",
        "http://evil.example",
        "http://gate.example:8000.evil.example",
        "http://gate.example:8000@evil.example",
        "http://user@gate.example:8000",
        "http://gate.example:8000/path",
        "http://gate.example:8000?query",
        "http://gate.example:port",
        "http://[gate.example:8000",
        "file://",
    ],
)
def test_every_other_origin_is_refused(origin: str) -> None:
    assert not origin_allowed(origin, *OWN, [])


def test_a_list_stands_for_itself_only() -> None:
    allow = ["https://app.example", "http://localhost:3000/"]
    assert origin_allowed("https://app.example", *OWN, allow)
    assert origin_allowed("http://localhost:3000", *OWN, allow)
    assert not origin_allowed("http://gate.example:8000", *OWN, allow)
    assert not origin_allowed("https://app.example.evil.example", *OWN, allow)


def test_a_star_allows_every_page_that_has_an_origin() -> None:
    assert origin_allowed("https://any.example", *OWN, ["*"])
    assert not origin_allowed("null", *OWN, ["*"])
    assert not origin_allowed("null", *OWN, ["null"])


def test_a_malformed_host_allows_nothing() -> None:
    assert not origin_allowed("http://gate.example", "", "http", [])
    assert not origin_allowed("http://gate.example", "gate.example:x", "http", [])
