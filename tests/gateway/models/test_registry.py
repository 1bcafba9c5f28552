from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing

import msgspec
import pytest

from gateway.models.demo import DemoModel
from gateway.models.port import ModelRequest, TextPiece
from gateway.models.registry import ModelSettings, ModelSettingsError, build_models
from gateway.models.retry import RetryingModel
from gateway.testing.openai_script import Reply
from gateway.testing.openai_server import FakeOpenAI


def settings(**fields: object) -> ModelSettings:
    return msgspec.convert(fields, ModelSettings)


async def test_models_keep_their_order_and_sizes() -> None:
    specs = {
        "demo": settings(provider="demo", delay=0),
        "gpt": settings(provider="openai", model="gpt-5", context_window=1000, max_tokens=100),
        "local": settings(provider="openai", model="llama", base_url="http://127.0.0.1:1/v1", context_window=2000),
    }
    models = build_models(specs, {"OPENAI_API_KEY": "sk-secret"})
    assert list(models) == ["demo", "gpt", "local"]
    assert isinstance(models["demo"], DemoModel)
    assert isinstance(models["gpt"], RetryingModel)
    assert (models["gpt"].context_window, models["gpt"].max_tokens) == (1000, 100)
    assert (models["local"].name, models["local"].max_tokens) == ("local", 500)
    for model in models.values():
        await model.close()


async def test_a_model_of_the_settings_retries_and_answers() -> None:
    async with FakeOpenAI(Reply.failure(429, retry_after="0"), Reply.text("hi")) as server:
        spec = settings(provider="openai", model="gpt", base_url=server.base_url, api_key_env="MY_KEY")
        model = build_models({"m": spec}, {"MY_KEY": "sk-1"})["m"]
        async with asyncio.timeout(20), aclosing(model.stream(ModelRequest(inputs=[]))) as pieces:
            assert await anext(pieces) == TextPiece("hi")
        await model.close()
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer sk-1"] * 2


def refused(spec: ModelSettings, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ModelSettingsError) as caught:
        build_models({"m": spec}, environ or {})
    return str(caught.value)


def test_an_unknown_provider_is_told_what_there_is() -> None:
    message = refused(settings(provider="antropic"))
    assert message == 'models.m.provider: there is no "antropic"; expected "demo" or "openai"'


def test_a_missing_key_names_its_variable() -> None:
    assert "OPENAI_API_KEY is not set" in refused(settings(provider="openai", model="gpt"))
    assert "MY_KEY is not set" in refused(
        settings(provider="openai", model="gpt", base_url="https://x.example/v1", api_key_env="MY_KEY"), {"MY_KEY": " "}
    )


def test_a_missing_model_is_named() -> None:
    assert refused(settings(provider="openai")).startswith("models.m.model:")


def test_a_base_url_must_be_one() -> None:
    assert refused(settings(provider="openai", model="m", base_url="localhost:1")).startswith("models.m.base_url:")


def test_an_answer_must_fit_the_window() -> None:
    message = refused(settings(provider="demo", context_window=100, max_tokens=100))
    assert message.startswith("models.m.max_tokens: 100 leaves no room")


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": "demo", "colour": "red"},
        {"provider": "demo", "delay": -1},
        {"provider": "demo", "max_tokens": 0},
        {"provider": "openai", "timeouts": {"connect": 0}},
    ],
)
def test_wrong_keys_and_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**fields)


def test_without_the_sdk_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['openai'] = None\n"
        "from gateway.models.registry import *\n"
        "try: build_models({'m': ModelSettings(provider='openai', model='gpt')}, {'OPENAI_API_KEY': 'k'})\n"
        "except ModelSettingsError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "models.m.provider: the provider \"openai\" needs an extra: pip install 'tidegate[openai]'\n"


def test_the_sdk_is_imported_only_for_a_model_that_needs_it() -> None:
    program = (
        "import sys\nfrom gateway.models.registry import *\n"
        "build_models({'m': ModelSettings(provider='demo')})\nprint('openai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
