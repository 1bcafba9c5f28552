from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from gateway.models.anthropic_settings import build
from gateway.models.port import ModelRequest, TextPiece
from gateway.models.retry import RetryingModel
from gateway.models.settings import ModelSettings, ModelSettingsError
from gateway.testing.anthropic_script import Reply
from gateway.testing.anthropic_server import FakeAnthropic


def settings(**fields: Any) -> ModelSettings:
    return msgspec.convert({"provider": "anthropic", "model": "claude", **fields}, ModelSettings)


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({}, (200_000, 8_192)),
        ({"context_window": 2_000}, (2_000, 500)),
        ({"max_tokens": 100}, (200_000, 100)),
        ({"extra": {"thinking": {"type": "enabled", "budget_tokens": 10_000}}}, (200_000, 18_192)),
        ({"extra": {"thinking": {"type": "adaptive"}}}, (200_000, 8_192)),
        ({"extra": {"thinking": "?"}}, (200_000, 8_192)),
    ],
)
async def test_sizes(fields: dict[str, Any], sizes: tuple[int, int]) -> None:
    model = build("m", settings(**fields), {"ANTHROPIC_API_KEY": "sk"})
    assert isinstance(model, RetryingModel)
    assert (model.name, model.context_window, model.max_tokens) == ("m", *sizes)
    await model.close()


async def test_a_model_of_the_settings_retries_and_answers() -> None:
    async with FakeAnthropic(Reply.failure(529, retry_after="0"), Reply.text("hi")) as server:
        spec = settings(base_url=server.base_url, api_key_env="MY_KEY", temperature=0.5, extra={"top_k": 1})
        model = build("m", spec, {"MY_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2"})
        async with asyncio.timeout(20), aclosing(model.stream(ModelRequest(inputs=[]))) as pieces:
            assert await anext(pieces) == TextPiece("hi")
        await model.close()
    assert [request.headers["x-api-key"] for request in server.requests] == ["sk-1"] * 2
    assert (server.requests[0].body["temperature"], server.requests[0].body["top_k"]) == (0.5, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "models.m.model:"),
        ({"base_url": "localhost:1"}, "models.m.base_url:"),
        ({}, "models.m.api_key_env: the environment variable ANTHROPIC_API_KEY is not set"),
        (
            {"base_url": "http://x.example", "api_key_env": "MY_KEY"},
            "models.m.api_key_env: the environment",
        ),
        ({"context_window": 100, "max_tokens": 100}, "models.m.max_tokens: 100 leaves no room"),
        (
            {"max_tokens": 2000, "extra": {"thinking": {"type": "enabled", "budget_tokens": 2000}}},
            "models.m.extra.thinking.budget_tokens: 2000 leaves no room",
        ),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelSettingsError) as caught:
        build("m", settings(**fields), {"MY_KEY": " "})
    assert str(caught.value).startswith(message)


async def test_a_server_of_ones_own_needs_no_key() -> None:
    model = build("m", settings(base_url="http://127.0.0.1:1"), {})
    await model.close()


def test_without_the_sdk_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['anthropic'] = None\n"
        "from gateway.models.anthropic_settings import build\n"
        "from gateway.models.settings import *\n"
        "try: build('m', ModelSettings(provider='anthropic', model='claude'), {'ANTHROPIC_API_KEY': 'k'})\n"
        "except ModelSettingsError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    extra = "pip install 'tidegate[anthropic]'"
    assert done.stdout == f'models.m.provider: the provider "anthropic" needs an extra: {extra}\n'
