"""A model of the provider "anthropic" from the settings; needs no SDK until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from gateway.models.port import ModelClient
from gateway.models.provider_settings import api_key, check_base_url, model_name, sizes
from gateway.models.retry import RetryingModel
from gateway.models.settings import ModelSettings, ModelSettingsError

__all__ = ["CONTEXT_WINDOW", "MAX_TOKENS", "build"]

CONTEXT_WINDOW: Final = 200_000
MAX_TOKENS: Final = 8_192


def build(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    """The model, with its retries. The key is that of ANTHROPIC_API_KEY where neither `base_url` nor `api_key_env` is
    set. Raises ModelSettingsError, also where the extra `anthropic` is not installed."""
    model = model_name(name, spec)
    check_base_url(name, spec)
    budget = _budget(spec.extra)
    # What is thought counts as a part of the answer: the default is what may be said besides.
    window, longest = sizes(name, spec, CONTEXT_WINDOW, MAX_TOKENS + budget)
    if budget >= longest:
        raise ModelSettingsError(
            f"models.{name}.extra.thinking.budget_tokens: {budget} leaves no room in the max_tokens of {longest}; "
            "expected less"
        )
    try:
        # Only a configured provider's SDK is imported: it is an extra, and slow to import.
        from gateway.models.anthropic import AnthropicModel
    except ModuleNotFoundError as error:
        raise ModelSettingsError(f"models.{name}.provider: {error.msg}") from error
    client = AnthropicModel(
        name,
        model,
        api_key(name, spec, environ, "ANTHROPIC_API_KEY"),
        spec.base_url,
        context_window=window,
        max_tokens=longest,
        temperature=spec.temperature,
        extra=spec.extra,
        timeouts=spec.timeouts,
    )
    return RetryingModel(client, attempts=spec.attempts)


def _budget(extra: Mapping[str, Any]) -> int:
    thinking = extra.get("thinking")
    budget: Any = cast("dict[str, Any]", thinking).get("budget_tokens") if isinstance(thinking, dict) else None
    return budget if isinstance(budget, int) and budget > 0 else 0
