"""A model of the provider "openai" from the settings; needs no SDK until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.models.port import ModelClient
from gateway.models.provider_settings import api_key, check_base_url, model_name, sizes
from gateway.models.retry import RetryingModel
from gateway.models.settings import ModelSettings, ModelSettingsError

__all__ = ["CONTEXT_WINDOW", "MAX_TOKENS", "build"]

CONTEXT_WINDOW: Final = 32_768
MAX_TOKENS: Final = 4_096


def build(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    """The model, with its retries. The key is that of OPENAI_API_KEY where neither `base_url` nor `api_key_env` is
    set. Raises ModelSettingsError, also where the extra `openai` is not installed."""
    model = model_name(name, spec)
    check_base_url(name, spec)
    window, longest = sizes(name, spec, CONTEXT_WINDOW, MAX_TOKENS)
    try:
        # Only a configured provider's SDK is imported: it is an extra, and slow to import.
        from gateway.models.openai import OpenAIModel
    except ModuleNotFoundError as error:
        raise ModelSettingsError(f"models.{name}.provider: {error.msg}") from error
    client = OpenAIModel(
        name,
        model,
        api_key(name, spec, environ, "OPENAI_API_KEY"),
        spec.base_url,
        context_window=window,
        max_tokens=longest,
        temperature=spec.temperature,
        extra=spec.extra,
        timeouts=spec.timeouts,
        images=spec.images,
    )
    return RetryingModel(client, attempts=spec.attempts)
