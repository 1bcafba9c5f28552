"""The failures of an OpenAI-compatible provider in our words (gateway/models/provider_errors.py)."""

from __future__ import annotations

from typing import Final

import httpx2
import openai

from gateway.models import provider_errors
from gateway.models.port import ModelError
from gateway.models.provider_errors import Sdk, describe, reported_error

__all__ = ["DRIVER_ERRORS", "model_error", "rejects_stream_options", "reported_error"]

# ValueError: text in the stream that is not JSON or not UTF-8. OSError: TLS failures that the HTTP client lets through.
DRIVER_ERRORS = (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, ValueError, OSError)

_SDK: Final = Sdk(
    timeout=(openai.APITimeoutError, httpx2.TimeoutException),
    status=(openai.APIStatusError,),
    connection=(openai.APIConnectionError, httpx2.TransportError, OSError),
    api=(openai.APIError,),
    answer="a chat completion",
)


def model_error(name: str, error: BaseException) -> ModelError:
    """`error` is one of DRIVER_ERRORS; `name` the model's in the settings."""
    return provider_errors.model_error(name, error, _SDK)


def rejects_stream_options(error: openai.APIStatusError) -> bool:
    return error.status_code in (400, 422) and "stream_options" in describe(error.body)
