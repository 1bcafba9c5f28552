"""docs/models.md: every key is told, and what it shows works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.models.port import Finish, ModelRequest, TextInput, TextPiece
from gateway.models.providers import BUILT_IN, GROUP
from gateway.models.registry import build_models
from gateway.models.settings import ModelSettings, ModelSettingsError
from tests.gateway.models.scripted_model import collect

DOC = (Path(__file__).parent.parent.parent.parent / "docs" / "models.md").read_text()
ENVIRON = {"OPENAI_API_KEY": "sk", "ANTHROPIC_API_KEY": "sk", "VLLM_API_KEY": "sk"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)


def test_every_key_and_provider_has_a_row() -> None:
    rows = "\n".join(line.split(" | ")[0] for line in DOC.splitlines() if line.startswith("| `"))
    told = set(re.findall(r"`(\w+)`", rows))
    assert told == {*ModelSettings.__struct_fields__, *BUILT_IN}


async def test_the_settings_can_be_used() -> None:
    *settings, package = (tomllib.loads(block) for block in blocks("toml"))
    assert list(package["project"]["entry-points"]) == [GROUP]
    specs = msgspec.convert(
        {name: spec for one in settings for name, spec in one["models"].items()}, dict[str, ModelSettings]
    )
    models = build_models(specs, ENVIRON)
    assert list(models) == ["gpt", "claude", "ollama", "vllm", "llama-cpp"]
    for model in models.values():
        await model.close()


async def test_the_provider_of_ones_own_works() -> None:
    (source,) = blocks("python")
    module: dict[str, Any] = {"__name__": "tidegate_parrot"}
    exec(compile(source, "docs/models.md", "exec"), module)  # noqa: S102 - our own documentation
    build = module["build"]
    with pytest.raises(ModelSettingsError, match=r"models\.m\.extra\.word"):
        build("m", ModelSettings(provider="parrot"), {})
    model = build("m", ModelSettings(provider="parrot", extra={"word": "polly"}), {})
    assert await collect(model, ModelRequest(inputs=[TextInput("user", "hi")])) == [TextPiece("polly"), Finish("stop")]
