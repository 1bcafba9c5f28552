"""Models from the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from gateway.models.demo import DemoModel
from gateway.models.port import ModelClient
from gateway.models.retry import RetryingModel
from gateway.models.settings import ModelSettings, ModelSettingsError, Timeouts

__all__ = ["PROVIDERS", "ModelSettings", "ModelSettingsError", "Timeouts", "build_models"]

PROVIDERS: Final = ("demo", "openai")


def build_models(
    specs: Mapping[str, ModelSettings], environ: Mapping[str, str] | None = None
) -> dict[str, ModelClient]:
    """The configured models by name, in the order of the settings; keys are read from `environ` (default: the
    process's). Raises ModelSettingsError."""
    variables = os.environ if environ is None else environ
    return {name: _build(name, spec, variables) for name, spec in specs.items()}


def _build(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    if spec.provider == "demo":
        return _demo(name, spec)
    if spec.provider == "openai":
        return _openai(name, spec, environ)
    expected = " or ".join(f'"{provider}"' for provider in PROVIDERS)
    raise ModelSettingsError(f'models.{name}.provider: there is no "{spec.provider}"; expected {expected}')


def _demo(name: str, spec: ModelSettings) -> ModelClient:
    default = DemoModel()
    window, longest = _sizes(name, spec, default.context_window, default.max_tokens)
    return DemoModel(name, spec.delay / 1000, window, longest)


def _openai(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    if not spec.model:
        raise ModelSettingsError(f"models.{name}.model: is missing; expected the provider's name of the model")
    if spec.base_url is not None and urlsplit(spec.base_url).scheme not in ("http", "https"):
        raise ModelSettingsError(f"models.{name}.base_url: expected a URL that begins with http:// or https://")
    window, longest = _sizes(name, spec, 32_768, 4_096)
    try:
        # Only a configured provider's SDK is imported: it is an extra, and slow to import.
        from gateway.models.openai import OpenAIModel
    except ModuleNotFoundError as error:
        raise ModelSettingsError(f"models.{name}.provider: {error.msg}") from error
    model = OpenAIModel(
        name,
        spec.model,
        _key(name, spec, environ),
        spec.base_url,
        context_window=window,
        max_tokens=longest,
        temperature=spec.temperature,
        extra=spec.extra,
        timeouts=spec.timeouts,
    )
    return RetryingModel(model, attempts=spec.attempts)


def _sizes(name: str, spec: ModelSettings, window: int, longest: int) -> tuple[int, int]:
    """The context window and the longest answer; a default for the latter takes at most a quarter of a small window."""
    window = spec.context_window or window
    longest = spec.max_tokens or max(1, min(longest, window // 4 if spec.context_window else longest))
    if longest >= window:
        raise ModelSettingsError(
            f"models.{name}.max_tokens: {longest} leaves no room in the context_window of {window}; expected less"
        )
    return window, longest


def _key(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> str | None:
    variable = spec.api_key_env or (None if spec.base_url else "OPENAI_API_KEY")
    if variable is None:
        return None
    key = environ.get(variable, "").strip()
    if not key:
        raise ModelSettingsError(
            f"models.{name}.api_key_env: the environment variable {variable} is not set; expected the provider's key"
        )
    return key
