"""The failures of a provider in our words: never its own text, which may hold the key or the conversation.

What the SDKs have in common; each names its own classes in an `Sdk`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast

from msgspec import Struct

from gateway.models.port import ModelError

__all__ = ["Sdk", "describe", "failed", "model_error", "refused", "reported_error"]

Kinds = tuple[type[BaseException], ...]

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|context[ _](?:length|window|size|limit)|maximum context"
    r"|(?:prompt|input|request)\b.{0,80}\btoo (?:long|large)|too many (?:input )?tokens",
    re.IGNORECASE | re.DOTALL,
)
_OVERLOADED = re.compile(r"rate_limit|overloaded|too_many_requests|unavailable", re.IGNORECASE)
_NO_QUOTA = re.compile(r"insufficient_quota|billing_error|credit balance", re.IGNORECASE)


class Sdk(Struct, frozen=True, kw_only=True):
    """The errors of an SDK by what they mean, and `answer`, what its provider should have sent. `timeout` and `status`
    are looked at before `connection`, that before `api`; a `status` error has `status_code`, `body` and `response`."""

    timeout: Kinds
    status: Kinds
    connection: Kinds
    api: Kinds
    answer: str


def model_error(name: str, error: BaseException, sdk: Sdk) -> ModelError:
    """`error` is what the SDK raised; `name` the model's in the settings."""
    if isinstance(error, sdk.timeout):
        return failed(f"The provider of the model {name} took too long to answer.")
    if isinstance(error, sdk.status):
        return _status(name, error)
    if isinstance(error, sdk.connection):
        return failed(f"The connection to the provider of the model {name} failed; check base_url if it stays so.")
    if isinstance(error, sdk.api) and (body := cast("Any", error).body) is not None:
        return reported_error(name, body)
    if isinstance(error, ValueError):
        return failed(f"The provider of the model {name} sent what is not {sdk.answer}.")
    return failed(f"The request to the provider of the model {name} failed.")


def reported_error(name: str, body: object) -> ModelError:
    """For an error that came inside the stream, after the status 200."""
    text = describe(body)
    if _TOO_LONG.search(text):
        return _too_long(name)
    if _OVERLOADED.search(text):
        return ModelError("provider_overloaded", f"The provider of the model {name} is overloaded.", retryable=True)
    return failed(f"The provider of the model {name} reported an error in the middle of its answer.")


def failed(message: str, retry_after: float | None = None) -> ModelError:
    """A failure that may be over when the request is repeated."""
    return ModelError("provider_error", message, retryable=True, retry_after=retry_after)


def refused(message: str) -> ModelError:
    """A failure that will stay."""
    return ModelError("provider_error", message, retryable=False)


def describe(body: object) -> str:
    """What of the error's body we look at to classify it; its first 4,096 characters."""
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        return " ".join(str(fields.get(key, "")) for key in ("code", "type", "message", "param", "error"))[:4096]
    return (body if isinstance(body, str) else json.dumps(body, default=str))[:4096]


def _status(name: str, error: Any) -> ModelError:
    status, text = int(error.status_code), describe(error.body)
    if status < 400:
        return reported_error(name, error.body)
    wait = _retry_after(error.response.headers)
    if status in (401, 403):
        return refused(f"The provider of the model {name} refused our credentials; check api_key_env and base_url.")
    if status == 404:
        return refused(f"The provider does not know the model {name} that is configured; check model and base_url.")
    if status == 402 or (status in (400, 429) and _NO_QUOTA.search(text)):
        return refused(f"The account at the provider of the model {name} has no quota left; check its billing.")
    if status in (429, 503, 529):
        return ModelError(
            "provider_overloaded",
            f"The provider of the model {name} takes no more requests at the moment.",
            retryable=True,
            retry_after=wait,
        )
    if status == 413 or _TOO_LONG.search(text):
        return _too_long(name)
    if status in (408, 409) or status >= 500:
        return failed(f"The provider of the model {name} failed with the status {status}.", wait)
    return refused(f"The provider of the model {name} refused the request (status {status}); check its settings.")


def _too_long(name: str) -> ModelError:
    return ModelError(
        "context_too_long", f"The conversation is too long for the context window of the model {name}.", retryable=False
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After` (RFC 9110, 10.2.3: seconds or a date)."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return _seconds(float(milliseconds) / 1000)
        value = headers.get("retry-after", "")
        return _seconds(float(value))
    except ValueError:
        pass
    try:
        return _seconds(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _seconds(value: float) -> float | None:
    return max(0.0, value) if value < float("inf") else None
