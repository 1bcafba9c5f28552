"""Where a gateway is."""

from __future__ import annotations

import pytest

from gateway.chat.api import Api, Target, Unreachable, local_token, target_of
from tests.e2e.gateways import free_port


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:8000", Target("http://127.0.0.1:8000", None)),
        ("127.0.0.1:8000", Target("http://127.0.0.1:8000", None)),
        ("wss://chat.example/gate/v1/ws", Target("https://chat.example/gate", None)),
        ("https://chat.example/gate/", Target("https://chat.example/gate", None)),
        ("http://127.0.0.1:8000/?ticket=abc", Target("http://127.0.0.1:8000", "abc")),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert target_of(url) == target


@pytest.mark.parametrize("url", ["ftp://example.org", "http://", "http://x:99999", "", "http://[::1"])
def test_what_is_no_url_of_a_gateway(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        target_of(url)


async def test_nobody_there_names_the_url() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=url):
        await local_token(Target(url, "abc"))
    async with Api.open(url, "token") as api:
        with pytest.raises(Unreachable, match=url):
            await api.contexts()
