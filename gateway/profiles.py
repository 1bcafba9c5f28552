"""What the settings say of how a model reads a conversation."""

from __future__ import annotations

from gateway.assembly import Profile
from gateway.core.tokens import Count, rough_count
from gateway.models.settings import ModelSettings
from gateway.models.tokens import token_counter

__all__ = ["profile_of"]


def profile_of(spec: ModelSettings) -> Profile:
    return Profile(system=spec.system, strategy=spec.strategy, count=_count(spec))


def _count(spec: ModelSettings) -> Count:
    if spec.provider == "demo":
        return _words
    return token_counter(spec.provider, spec.model) or rough_count


def _words(text: str) -> int:
    return len(text.split())
