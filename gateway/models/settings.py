"""One `[models.<name>]` section of the settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

__all__ = ["ModelSettings", "ModelSettingsError", "Timeouts"]

_Positive = Annotated[int, Meta(gt=0)]
_Seconds = Annotated[float, Meta(gt=0)]


class ModelSettingsError(ValueError):
    """A setting of a model is missing or wrong; the message names the key and says what was expected."""


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds: to connect, from the request to the first piece, and between two chunks after it."""

    connect: _Seconds = 10.0
    first_token: _Seconds = 120.0
    between_tokens: _Seconds = 60.0


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`provider` "demo" uses `delay` (milliseconds a word) and the sizes, in words.

    `provider` "openai" uses `model`, the provider's name for it; `base_url`, absent for OpenAI itself; `api_key_env`,
    the environment variable that holds the key (absent: OPENAI_API_KEY without a `base_url`, no key with one); the
    sizes, in tokens; `timeouts`; `attempts`, how often a request is tried before its first piece; and `extra`, fields
    added to the body of every request. With `images` false it is not shown the images that tools return, but told that
    there were some: a model that can't look at images would refuse every request with one. A provider of another
    package has its own settings in `extra`.

    Of every provider: `system` is said before each conversation; `strategy` is what happens to a conversation that is
    longer than the window ("trim" leaves the oldest turns out, "summarise" puts a summary in their place); `fallback`
    names models that are asked, in that order, where this one fails before its first piece; `concurrency` is how many
    requests may be open at the provider at a time; `cache_seconds` is how long an answer is kept for the same request
    (absent: not at all), for the same principal unless `cache_shared`; prices are of a million tokens, in whatever
    currency budgets are counted in (absent: the cached price is the input price).
    """

    provider: str
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    context_window: _Positive | None = None
    max_tokens: _Positive | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    delay: Annotated[float, Meta(ge=0)] = 20.0
    timeouts: Timeouts = Timeouts()
    attempts: _Positive = 4
    images: bool = True
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    system: str | None = None
    strategy: Literal["trim", "summarise"] = "trim"
    fallback: tuple[str, ...] = ()
    concurrency: _Positive | None = None
    cache_seconds: _Seconds | None = None
    cache_shared: bool = False
    input_price: Annotated[float, Meta(ge=0)] = 0.0
    output_price: Annotated[float, Meta(ge=0)] = 0.0
    cached_price: Annotated[float, Meta(ge=0)] | None = None
