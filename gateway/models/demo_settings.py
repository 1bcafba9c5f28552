"""A model of the provider "demo" from the settings."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.models.demo import DemoModel
from gateway.models.port import ModelClient
from gateway.models.provider_settings import sizes
from gateway.models.settings import ModelSettings

__all__ = ["build"]


def build(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    """The model; it needs nothing of `environ`. Raises ModelSettingsError."""
    default = DemoModel()
    window, longest = sizes(name, spec, default.context_window, default.max_tokens)
    return DemoModel(name, spec.delay / 1000, window, longest)
