"""Which providers there are: our own, and those of installed packages (docs/models.md, "A provider of your own")."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

import structlog

from gateway.models.port import ModelClient
from gateway.models.settings import ModelSettings, ModelSettingsError

__all__ = ["BUILT_IN", "GROUP", "Build", "build_provider", "provider_names"]

GROUP: Final = "tidegate.models"
"""The group of entry points: each is the name of a provider and its `Build`."""

BUILT_IN: Final = {
    "demo": "gateway.models.demo_settings:build",
    "openai": "gateway.models.openai_settings:build",
    "anthropic": "gateway.models.anthropic_settings:build",
    "local": "gateway.models.local_settings:build",
}
"""Entry points as well, but found without the metadata of an installation, which a checkout may have none of or an
older one."""

Build = Callable[[str, ModelSettings, Mapping[str, str]], ModelClient]
"""Makes the model of that name from its settings; keys come from the environment that is given. It raises
ModelSettingsError. What it returns is a RetryingModel where the provider's failures are worth another try."""

_log = structlog.get_logger(__name__)


def provider_names() -> list[str]:
    """All that can stand in `provider`."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def build_provider(name: str, spec: ModelSettings, environ: Mapping[str, str]) -> ModelClient:
    """A model by its provider alone. Raises ModelSettingsError."""
    others = _others(spec.provider)
    if spec.provider in BUILT_IN:
        for entry in others:
            _log.warning("a package can't replace a built-in provider", provider=entry.name, package=_package(entry))
        build: Build = EntryPoint(spec.provider, BUILT_IN[spec.provider], GROUP).load()
        return build(name, spec, environ)
    if not others:
        known = ", ".join(f'"{known}"' for known in provider_names())
        raise ModelSettingsError(f'models.{name}.provider: there is no "{spec.provider}"; expected one of {known}')
    if len(others) > 1:
        packages = " and ".join(sorted(_package(entry) for entry in others))
        raise ModelSettingsError(
            f'models.{name}.provider: "{spec.provider}" is claimed by {packages}; expected one of them to be installed'
        )
    return _build_other(name, spec, environ, others[0])


def _others(provider: str) -> list[EntryPoint]:
    """The entry points of that name which are not ours, whatever an older installation says of those."""
    found = entry_points(group=GROUP, name=provider)
    return [entry for entry in found if entry.dist is None or entry.dist.name != "tidegate"]


def _build_other(name: str, spec: ModelSettings, environ: Mapping[str, str], entry: EntryPoint) -> ModelClient:
    where = f'models.{name}.provider: "{entry.name}" of {_package(entry)}'
    try:
        build = cast("Build", entry.load())
    # Somebody else's module may raise anything while it is imported.
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelSettingsError(f"{where} can't be imported: {words}") from error
    if not callable(build):
        raise ModelSettingsError(f"{where} is no function ({entry.value}); expected build(name, spec, environ)")
    try:
        return build(name, spec, environ)
    except ModelSettingsError:
        raise
    # So may somebody else's function. Its words stay unsaid: it was given keys.
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise ModelSettingsError(f"{where} failed with {type(error).__name__} ({at.filename}:{at.lineno})") from error


def _package(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"the package {dist.name} {dist.version}" if dist is not None else f"the module {entry.module}"
