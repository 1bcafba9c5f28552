"""A model of the provider "local" from the settings; needs its extra when one is built, and loads it later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.models.local import CONTEXT_WINDOW, MAX_TOKENS, SLOTS, LocalModel
from gateway.models.local_weights import MissingExtra, check_extra, is_gguf
from gateway.models.port import ModelClient
from gateway.models.provider_settings import sizes
from gateway.models.settings import ModelSettings, ModelSettingsError

__all__ = ["build"]


def build(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    """The model: of the GGUF file that `model` names, or of the package. `concurrency` is how many requests it answers
    at once. Raises ModelSettingsError, also where the extra `local` is not installed."""
    del environ  # It needs no key.
    try:
        check_extra(weights=spec.model is None)
    except MissingExtra as error:
        raise ModelSettingsError(f"models.{name}.provider: {error.msg}") from error
    window, longest = sizes(name, spec, CONTEXT_WINDOW, MAX_TOKENS)
    return LocalModel(
        name,
        None if spec.model is None else _file(name, spec.model),
        context_window=window,
        max_tokens=longest,
        temperature=spec.temperature,
        extra=spec.extra,
        timeouts=spec.timeouts,
        slots=spec.concurrency or SLOTS,
    )


def _file(name: str, model: str) -> Path:
    file = Path(model).expanduser()
    try:
        found = is_gguf(file)
    except OSError as error:
        reason = error.strerror or "it can't be read"
        raise ModelSettingsError(f"models.{name}.model: {file}: {reason}; expected a GGUF file") from error
    if not found:
        raise ModelSettingsError(f"models.{name}.model: {file} is not a GGUF file")
    return file
