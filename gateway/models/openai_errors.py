"""The failures of an OpenAI-compatible provider in our words: never its own text, which may hold the key or the
conversation."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx2
import openai

from gateway.models.port import ModelError

__all__ = ["DRIVER_ERRORS", "model_error", "rejects_stream_options", "reported_error"]

# ValueError: text in the stream that is not JSON or not UTF-8. OSError: TLS failures that the HTTP client lets through.
DRIVER_ERRORS = (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, ValueError, OSError)

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|context[ _](?:length|window|size)|maximum context"
    r"|(?:prompt|input|request)\b.{0,80}\btoo (?:long|large)|too many (?:input )?tokens",
    re.IGNORECASE | re.DOTALL,
)
_OVERLOADED = re.compile(r"rate_limit|overloaded|too_many_requests|unavailable", re.IGNORECASE)


def model_error(name: str, error: BaseException) -> ModelError:
    """`error` is one of DRIVER_ERRORS; `name` the model's in the settings."""
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return _failed(f"The provider of the model {name} took too long to answer.")
    if isinstance(error, openai.APIStatusError):
        return _status(name, error)
    if isinstance(error, openai.APIConnectionError | httpx2.TransportError | OSError):
        return _failed(f"The connection to the provider of the model {name} failed; check base_url if it stays so.")
    if isinstance(error, openai.APIError) and error.body is not None:
        return reported_error(name, error.body)
    if isinstance(error, ValueError):
        return _failed(f"The provider of the model {name} sent what is not a chat completion.")
    return _failed(f"The request to the provider of the model {name} failed.")


def reported_error(name: str, body: object) -> ModelError:
    """For an error that came inside the stream, after the status 200."""
    text = _text(body)
    if _TOO_LONG.search(text):
        return _too_long(name)
    if _OVERLOADED.search(text):
        return ModelError("provider_overloaded", f"The provider of the model {name} is overloaded.", retryable=True)
    return _failed(f"The provider of the model {name} reported an error in the middle of its answer.")


def rejects_stream_options(error: openai.APIStatusError) -> bool:
    return error.status_code in (400, 422) and "stream_options" in _text(error.body)


def _status(name: str, error: openai.APIStatusError) -> ModelError:
    status, text = error.status_code, _text(error.body)
    wait = _retry_after(error.response.headers)
    if status in (401, 403):
        return _refused(f"The provider of the model {name} refused our credentials; check api_key_env and base_url.")
    if status == 404:
        return _refused(f"The provider does not know the model {name} that is configured; check model and base_url.")
    if status == 429 and "insufficient_quota" in text:
        return _refused(f"The account at the provider of the model {name} has no quota left; check its billing.")
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
        return _failed(f"The provider of the model {name} failed with the status {status}.", wait)
    return _refused(f"The provider of the model {name} refused the request (status {status}); check its settings.")


def _too_long(name: str) -> ModelError:
    return ModelError(
        "context_too_long", f"The conversation is too long for the context window of the model {name}.", retryable=False
    )


def _failed(message: str, retry_after: float | None = None) -> ModelError:
    return ModelError("provider_error", message, retryable=True, retry_after=retry_after)


def _refused(message: str) -> ModelError:
    return ModelError("provider_error", message, retryable=False)


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


def _text(body: object) -> str:
    """What of the error's body we look at to classify it; its first 4,096 characters."""
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        return " ".join(str(fields.get(key, "")) for key in ("code", "type", "message", "param", "error"))[:4096]
    return (body if isinstance(body, str) else json.dumps(body, default=str))[:4096]
