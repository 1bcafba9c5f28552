"""Models from the settings: each provider's model with its limit and retries, what stands in for it, and what was
answered before."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gateway.models.concurrency import LimitedModel, Limiter
from gateway.models.fallback import FallbackModel
from gateway.models.port import ModelClient
from gateway.models.providers import build_provider
from gateway.models.response_cache import CachingModel
from gateway.models.response_key import fingerprint
from gateway.models.retry import RetryingModel
from gateway.models.settings import ModelSettings, ModelSettingsError, Timeouts
from stores.ports import Cache

__all__ = ["ModelSettings", "ModelSettingsError", "Timeouts", "build_model", "build_models"]


def build_models(
    specs: Mapping[str, ModelSettings], environ: Mapping[str, str] | None = None, cache: Cache | None = None
) -> dict[str, ModelClient]:
    """The configured models by name, in the order of the settings; keys are read from `environ` (default: the
    process's), answers kept in `cache` (default: not at all). From the outside in, a model is its cache, its fallback,
    its retries, its limit and its provider. Raises ModelSettingsError."""
    variables = os.environ if environ is None else environ
    stand_ins = {name: _stand_ins(name, specs) for name in specs}
    limiters = _limiters(specs)
    alone = {name: _limited(build_provider(name, spec, variables), limiters.get(name)) for name, spec in specs.items()}
    models: dict[str, ModelClient] = {}
    for name, spec in specs.items():
        model = alone[name]
        if stand_ins[name]:
            model = FallbackModel(model, [alone[other] for other in stand_ins[name]])
        if cache is not None and spec.cache_seconds is not None:
            model = CachingModel(model, cache, spec.cache_seconds, spec.cache_shared, fingerprint(spec))
        models[name] = model
    return models


def build_model(name: str, specs: Mapping[str, ModelSettings], environ: Mapping[str, str] | None = None) -> ModelClient:
    """One of the configured models by its provider alone, to see whether its settings can be used; what they say of
    others is checked as well. Raises ModelSettingsError."""
    _stand_ins(name, specs)
    _first_with_limit(name, specs)
    return build_provider(name, specs[name], os.environ if environ is None else environ)


def _limited(model: ModelClient, limiter: Limiter | None) -> ModelClient:
    if limiter is None:
        return model
    if isinstance(model, RetryingModel):
        # No place is held while a try waits for the next.
        return model.around(lambda inner: LimitedModel(inner, limiter))
    return LimitedModel(model, limiter)


def _limiters(specs: Mapping[str, ModelSettings]) -> dict[str, Limiter]:
    """By model: those that ask the same server have one together."""
    limiters: dict[str, Limiter] = {}
    for name, spec in specs.items():
        if spec.concurrency is not None:
            first = _first_with_limit(name, specs)
            limiters[name] = limiters[first] if first in limiters else Limiter(spec.concurrency)
    return limiters


def _first_with_limit(name: str, specs: Mapping[str, ModelSettings]) -> str:
    """The first model with a limit that asks the same server, or the model itself. Raises ModelSettingsError where the
    two have different ones."""
    spec = specs[name]
    if spec.concurrency is None:
        return name
    limited = [other for other in specs if specs[other].concurrency is not None]
    first = next(other for other in limited if _server(specs[other]) == _server(spec))
    if specs[first].concurrency != spec.concurrency:
        raise ModelSettingsError(
            f"models.{name}.concurrency: {spec.concurrency} differs from the {specs[first].concurrency} of "
            f"models.{first}, which asks the same server; expected one number"
        )
    return first


def _server(spec: ModelSettings) -> tuple[str, str | None]:
    return spec.provider, spec.base_url.rstrip("/") if spec.base_url is not None else None


def _stand_ins(name: str, specs: Mapping[str, ModelSettings]) -> list[str]:
    """Who is asked where the model fails, in their order: those it names, each followed by its own, nobody twice."""
    found: list[str] = []
    _follow(name, specs, (), found)
    return found


def _follow(name: str, specs: Mapping[str, ModelSettings], path: tuple[str, ...], found: list[str]) -> None:
    path = (*path, name)
    for other in specs[name].fallback:
        if other not in specs:
            known = ", ".join(f'"{known}"' for known in specs if known not in path)
            known = known or "none, since no other is configured"
            raise ModelSettingsError(f'models.{name}.fallback: there is no model "{other}"; expected {known}')
        if other in path:
            way = " -> ".join((*path[path.index(other) :], other))
            raise ModelSettingsError(f"models.{name}.fallback: leads back to where it began ({way})")
        if other not in found:
            found.append(other)
            _follow(other, specs, path, found)
