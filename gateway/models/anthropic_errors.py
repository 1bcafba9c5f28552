"""The failures of Anthropic's API in our words (gateway/models/provider_errors.py)."""

from __future__ import annotations

import re
from typing import Final

import anthropic
import httpx2

from gateway.models import provider_errors
from gateway.models.port import ModelError
from gateway.models.provider_errors import Sdk, describe, reported_error

__all__ = ["DRIVER_ERRORS", "model_error", "rejects_system_role", "rejects_thinking", "reported_error"]

# ValueError: text in the stream that is not JSON or not UTF-8. OSError: TLS failures that the HTTP client lets through.
DRIVER_ERRORS = (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, ValueError, OSError)

_SDK: Final = Sdk(
    timeout=(anthropic.APITimeoutError, httpx2.TimeoutException),
    status=(anthropic.APIStatusError,),
    connection=(anthropic.APIConnectionError, httpx2.TransportError, OSError),
    api=(anthropic.APIError,),
    answer="a message",
)
_THINKING = re.compile(r"thinking|signature", re.IGNORECASE)
_SYSTEM_ROLE = re.compile(r"\brole\b|\bsystem\b", re.IGNORECASE)


def model_error(name: str, error: BaseException) -> ModelError:
    """`error` is one of DRIVER_ERRORS; `name` the model's in the settings."""
    return provider_errors.model_error(name, error, _SDK)


def rejects_thinking(error: anthropic.APIStatusError) -> bool:
    """Whether a request with thinking blocks was refused for their sake."""
    return error.status_code in (400, 422) and _THINKING.search(describe(error.body)) is not None


def rejects_system_role(error: anthropic.APIStatusError) -> bool:
    """Whether a request with a system message among the others was refused for its sake, as models before Opus 4.8 and
    most compatible servers do."""
    return error.status_code in (400, 422) and _SYSTEM_ROLE.search(_everything(error)) is not None


def _everything(error: anthropic.APIStatusError) -> str:
    # Compatible servers answer with the errors of their validation library, in shapes of its own.
    return str(error.body)[:4096]
