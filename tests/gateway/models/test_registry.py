from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing

import msgspec
import pytest

from gateway.models.demo import DemoModel
from gateway.models.port import Finish, ModelRequest, TextPiece
from gateway.models.registry import ModelSettings, ModelSettingsError, build_model, build_models
from gateway.models.retry import RetryingModel
from gateway.testing.openai_script import Finish as Finished
from gateway.testing.openai_script import Hold, Reply, Stall, words
from gateway.testing.openai_server import FakeOpenAI
from stores.memory import MemoryCache
from tests.gateway.models.scripted_model import HELLO, collect, settle


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


# ---- what stands before a provider


def server_settings(server: FakeOpenAI, **fields: object) -> ModelSettings:
    return settings(provider="openai", model="gpt", base_url=server.base_url, **fields)


def usage_of(pieces: list[object]) -> int:
    end = pieces[-1]
    assert isinstance(end, Finish)
    return end.usage.cached_responses if end.usage is not None else 0


def named(pieces: list[object]) -> str | None:
    end = pieces[-1]
    assert isinstance(end, Finish)
    return end.model


async def test_a_fallback_is_asked_after_the_retries_and_through_the_limit() -> None:
    async with FakeOpenAI(default=lambda _: Reply.failure(503, retry_after="0")) as down, FakeOpenAI() as up:
        up.replies.append(Reply.text("hi"))
        models = build_models(
            {
                "a": server_settings(down, attempts=2, fallback=["b"], concurrency=1),
                "b": server_settings(down, attempts=1, fallback=["c"], concurrency=1),
                "c": server_settings(up),
            },
            {},
        )
        assert named(list(await collect(models["a"]))) == "c"
        assert (len(down.requests), len(up.requests)) == (3, 1)
        for model in models.values():
            await model.close()


async def test_who_stands_in_for_several_is_asked_once() -> None:
    async with FakeOpenAI(default=lambda _: Reply.failure(400)) as server:
        models = build_models(
            {
                "a": server_settings(server, fallback=["b", "c", "b"]),
                "b": server_settings(server, fallback=["d"]),
                "c": server_settings(server, fallback=["d"]),
                "d": server_settings(server),
            },
            {},
        )
        with pytest.raises(Exception, match="refused the request"):
            await collect(models["a"])
        assert len(server.requests) == 4
        for model in models.values():
            await model.close()


async def test_the_cache_stands_before_all_and_needs_both_its_setting_and_a_cache() -> None:
    async with FakeOpenAI(default=lambda _: Reply.text("hi")) as server:
        specs = {
            "kept": server_settings(server, cache_seconds=60, fallback=["plain"]),
            "plain": server_settings(server),
        }
        models = build_models(specs, {}, MemoryCache())
        for name, hits in (("kept", 1), ("plain", 0)):
            assert usage_of(list(await collect(models[name]))) == 0
            assert usage_of(list(await collect(models[name]))) == hits
        assert len(server.requests) == 3
        without = build_models(specs, {})
        for _ in range(2):
            assert usage_of(list(await collect(without["kept"]))) == 0
        for model in (*models.values(), *without.values()):
            await model.close()


async def test_an_answer_of_a_fallback_is_not_kept() -> None:
    async with FakeOpenAI(Reply.failure(400)) as first, FakeOpenAI(default=lambda _: Reply.text("other")) as second:
        specs = {"a": server_settings(first, cache_seconds=60, fallback=["b"]), "b": server_settings(second)}
        models = build_models(specs, {}, MemoryCache())
        assert named(list(await collect(models["a"]))) == "b"
        first.replies.append(Reply.text("back"))
        assert named(list(await collect(models["a"]))) is None
        assert usage_of(list(await collect(models["a"]))) == 1
        for model in models.values():
            await model.close()


async def test_models_of_one_server_share_its_places() -> None:
    go = asyncio.Event()
    held = Reply(steps=[*words("hi"), Hold(go), Finished()])
    async with asyncio.timeout(20), FakeOpenAI(held) as server, FakeOpenAI(Reply.text("elsewhere")) as other:
        slashed = settings(provider="openai", model="x", base_url=server.base_url + "/", concurrency=1)
        models = build_models(
            {
                "a": server_settings(server, concurrency=1),
                "b": slashed,
                "free": server_settings(server),
                "elsewhere": server_settings(other, concurrency=1),
            },
            {},
        )
        first = models["a"].stream(HELLO)
        assert await anext(first) == TextPiece("hi")
        server.replies.extend([Reply.text("free"), Reply.text("second")])
        second = asyncio.create_task(collect(models["b"]))
        await collect(models["elsewhere"])
        # One without a limit neither waits nor counts.
        assert (await collect(models["free"]))[0] == TextPiece("free")
        assert not second.done()
        go.set()
        await first.aclose()
        assert (await second)[0] == TextPiece("second")
        for model in models.values():
            await model.close()


async def test_a_model_without_retries_is_limited_as_well() -> None:
    model = build_models({"m": settings(provider="demo", delay=0, concurrency=1)}, {})["m"]
    assert not isinstance(model, DemoModel)
    first = model.stream(HELLO)
    await anext(first)
    second = asyncio.create_task(collect(model))
    async with asyncio.timeout(20):
        await settle()
        assert not second.done()
        await first.aclose()
        assert await second
    await model.close()


async def test_timeouts_and_attempts_hold_behind_everything() -> None:
    async with FakeOpenAI(default=lambda _: Reply(steps=[Stall()])) as server:
        limits = {"first_token": 0.2, "between_tokens": 0.2}
        spec = server_settings(server, attempts=2, timeouts=limits, concurrency=1, cache_seconds=5)
        model = build_models({"a": spec}, {}, MemoryCache())["a"]
        with pytest.raises(Exception, match="stopped answering"):
            await collect(model)
        assert len(server.requests) == 2
        server.replies.append(Reply(steps=[*words("half"), Stall()]))
        with pytest.raises(Exception, match="stopped answering"):
            await collect(model)
        assert len(server.requests) == 3
        await model.close()


DEMO = {"provider": "demo"}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            {"m": {"fallback": ["x"]}, "n": {}},
            'models.m.fallback: there is no model "x"; expected "n"',
        ),
        (
            {"m": {"fallback": ["x"]}},
            'models.m.fallback: there is no model "x"; expected none, since no other is configured',
        ),
        (
            {"m": {"fallback": ["m"]}},
            "models.m.fallback: leads back to where it began (m -> m)",
        ),
        (
            {"m": {"fallback": ["n"]}, "n": {"fallback": ["o"]}, "o": {"fallback": ["n"]}},
            "models.o.fallback: leads back to where it began (n -> o -> n)",
        ),
        (
            {"n": {"concurrency": 2}, "m": {"concurrency": 3}},
            "models.m.concurrency: 3 differs from the 2 of models.n, which asks the same server; expected one number",
        ),
    ],
)
def test_what_models_say_of_each_other_must_fit(specs: dict[str, dict[str, object]], message: str) -> None:
    models = {name: settings(**DEMO, **fields) for name, fields in specs.items()}
    with pytest.raises(ModelSettingsError) as caught:
        build_models(models, {})
    assert str(caught.value) == message
    # Whoever looks at one model alone is told the same.
    with pytest.raises(ModelSettingsError) as caught:
        build_model("m", models, {})
    assert str(caught.value) == message


async def test_one_model_is_built_alone() -> None:
    specs = {"m": settings(**DEMO, fallback=["n"]), "n": settings(provider="openai", model="gpt")}
    model = build_model("m", specs, {})
    assert isinstance(model, DemoModel)
    await model.close()
    with pytest.raises(ModelSettingsError, match="OPENAI_API_KEY"):
        build_model("n", specs, {})
