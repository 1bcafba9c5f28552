"""What the settings of all real providers have in common: sizes, keys and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.models.settings import ModelSettings, ModelSettingsError

__all__ = ["api_key", "check_base_url", "model_name", "sizes"]


def sizes(name: str, spec: ModelSettings, window: int, longest: int) -> tuple[int, int]:
    """The context window and the longest answer, in tokens; `window` and `longest` are the defaults. The default for
    the latter takes at most a quarter of a window that is given. Raises ModelSettingsError."""
    window = spec.context_window or window
    longest = spec.max_tokens or max(1, min(longest, window // 4 if spec.context_window else longest))
    if longest >= window:
        raise ModelSettingsError(
            f"models.{name}.max_tokens: {longest} leaves no room in the context_window of {window}; expected less"
        )
    return window, longest


def api_key(name: str, spec: ModelSettings, environ: Mapping[str, str], default: str | None) -> str | None:
    """The key from the variable that `api_key_env` names, or `default` where neither that nor `base_url` is set; None
    where no variable is named. Raises ModelSettingsError where the variable is not set or empty."""
    variable = spec.api_key_env or (None if spec.base_url else default)
    if variable is None:
        return None
    key = environ.get(variable, "").strip()
    if not key:
        raise ModelSettingsError(
            f"models.{name}.api_key_env: the environment variable {variable} is not set; expected the provider's key"
        )
    return key


def model_name(name: str, spec: ModelSettings) -> str:
    """The provider's name of the model. Raises ModelSettingsError where there is none."""
    if not spec.model:
        raise ModelSettingsError(f"models.{name}.model: is missing; expected the provider's name of the model")
    return spec.model


def check_base_url(name: str, spec: ModelSettings) -> None:
    """Raises ModelSettingsError unless `base_url` is absent or one of HTTP."""
    if spec.base_url is not None and urlsplit(spec.base_url).scheme not in ("http", "https"):
        raise ModelSettingsError(f"models.{name}.base_url: expected a URL that begins with http:// or https://")
