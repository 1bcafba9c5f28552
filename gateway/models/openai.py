"""Any model behind an OpenAI-compatible chat completions endpoint, through the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from gateway.models.deadlines import next_deadline
from gateway.models.openai_chunks import Answer, Chunk
from gateway.models.openai_messages import chat_body
from gateway.models.port import ModelError, ModelPiece, ModelRequest
from gateway.models.settings import Timeouts

try:
    import httpx2
    import openai
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the provider \"openai\" needs an extra: pip install 'tidegate[openai]'", name=error.name
    ) from error

from gateway.models.openai_errors import DRIVER_ERRORS, model_error, rejects_stream_options, reported_error

__all__ = ["OPENAI_URL", "OpenAIModel"]

OPENAI_URL = "https://api.openai.com/v1"

_Stream = openai.AsyncStream[object]


class OpenAIModel:
    """`model` is the provider's name for it, `name` ours. `base_url` None is OpenAI itself; `api_key` None is for
    servers that want none. `extra` is added to the body of every request and wins over what we put there. `images`
    says whether the model is shown the images that tools return."""

    def __init__(
        self,
        name: str,
        model: str,
        api_key: str | None,
        base_url: str | None = None,
        *,
        context_window: int = 32_768,
        max_tokens: int = 4_096,
        temperature: float | None = None,
        extra: Mapping[str, Any] | None = None,
        timeouts: Timeouts | None = None,
        images: bool = True,
    ) -> None:
        self._name = name
        self._context_window = context_window
        self._max_tokens = max_tokens
        self._timeouts = timeouts or Timeouts()
        self._images = images
        self._ask_for_usage = True
        # OpenAI's newer models refuse `max_tokens`, and many compatible servers know nothing else.
        limit = "max_completion_tokens" if base_url is None else "max_tokens"
        self._body: dict[str, Any] = {"model": model, "stream": True, limit: max_tokens}
        if temperature is not None:
            self._body["temperature"] = temperature
        self._extra = dict(extra or {})
        # Key and URL are always given, so that the SDK takes none from the environment; retries are ours.
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=base_url or OPENAI_URL,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=self._timeouts.connect, pool=self._timeouts.connect),
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_window(self) -> int:
        return self._context_window

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelPiece, None]:
        answer = Answer(self._name)
        deadline = asyncio.get_running_loop().time() + self._timeouts.first_token
        chunks = await self._open(request, deadline)
        try:
            while (chunk := await self._next(chunks, answer, deadline)) is not None:
                for piece in answer.feed(chunk):
                    yield piece
                deadline = next_deadline(answer, self._timeouts, deadline)
            if answer.reason is None and not answer.begun:
                self._check_content_type(chunks)
            for piece in answer.finish():
                yield piece
        finally:
            await chunks.close()

    async def close(self) -> None:
        await self._client.close()

    async def _open(self, request: ModelRequest, deadline: float) -> _Stream:
        body = {**self._body, **chat_body(request, result_images=self._images), **self._extra}
        try:
            async with asyncio.timeout_at(deadline):
                return await self._post(body)
        except TimeoutError:
            raise self._stalled() from None
        except DRIVER_ERRORS as error:
            # The cause holds the provider's own text, which must not reach a log.
            raise model_error(self._name, error) from None

    async def _post(self, body: dict[str, Any]) -> _Stream:
        """`post` instead of `chat.completions.create`, since building the SDK's own types takes 0.1 ms a chunk, and
        building ours a microsecond."""
        if self._ask_for_usage:
            try:
                return await self._send({"stream_options": {"include_usage": True}, **body})
            except openai.APIStatusError as error:
                if not rejects_stream_options(error):
                    raise
                self._ask_for_usage = False
        return await self._send(body)

    async def _send(self, body: dict[str, Any]) -> _Stream:
        return await self._client.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )

    async def _next(self, chunks: _Stream, answer: Answer, deadline: float) -> Chunk | None:
        """The next chunk, None at the end. A failure after the finish reason costs the usage, not the answer."""
        try:
            async with asyncio.timeout_at(deadline):
                chunk = msgspec.convert(await anext(chunks), Chunk)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            failure = self._stalled()
        except DRIVER_ERRORS as error:
            failure = model_error(self._name, error)
        else:
            if not chunk.error:
                return chunk
            failure = reported_error(self._name, chunk.error)
        if answer.reason is not None:
            return None
        raise failure

    def _stalled(self) -> ModelError:
        return ModelError("provider_error", f"The model {self._name} stopped answering.", retryable=True)

    def _check_content_type(self, chunks: _Stream) -> None:
        kind = chunks.response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            raise ModelError(
                "provider_error",
                f"The provider of the model {self._name} answered with no event stream; check base_url.",
                retryable=False,
            )
