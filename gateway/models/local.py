"""A model that llama.cpp runs on this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import msgspec
import structlog

from gateway.models.deadlines import next_deadline
from gateway.models.local_engine import Engine, EngineError
from gateway.models.local_weights import MissingExtra
from gateway.models.openai_chunks import Answer, Chunk
from gateway.models.openai_messages import chat_body
from gateway.models.port import ModelError, ModelPiece, ModelRequest
from gateway.models.provider_errors import describe, failed, refused, reported_error
from gateway.models.settings import Timeouts

__all__ = ["CONTEXT_WINDOW", "MAX_TOKENS", "SLOTS", "LocalModel"]

CONTEXT_WINDOW: Final = 8_192
MAX_TOKENS: Final = 1_024
SLOTS: Final = 2
_DATA: Final = b"data: "
_DONE: Final = b"[DONE]"

_log = structlog.get_logger(__name__)


class _Loaded(NamedTuple):
    engine: Engine
    client: httpx.AsyncClient


class LocalModel:
    """`file` is a GGUF file, None the model in the package. It is loaded once, in a thread, at the first request, which
    waits for it as long as it may take to the first piece. `slots` requests are answered at once, and others wait as
    long. `extra` is added to the body of every request and wins over what we put there."""

    def __init__(
        self,
        name: str = "local",
        file: Path | None = None,
        *,
        context_window: int = CONTEXT_WINDOW,
        max_tokens: int = MAX_TOKENS,
        temperature: float | None = None,
        extra: Mapping[str, Any] | None = None,
        timeouts: Timeouts | None = None,
        slots: int = SLOTS,
    ) -> None:
        self._name = name
        self._file = file
        self._context_window = context_window
        self._max_tokens = max_tokens
        self._timeouts = timeouts or Timeouts()
        self._slots = slots
        self._places = asyncio.Semaphore(slots)
        self._body: dict[str, Any] = {
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": max_tokens,
        }
        if temperature is not None:
            self._body["temperature"] = temperature
        self._extra = dict(extra or {})
        self._loading: asyncio.Task[_Loaded | str] | None = None
        self._closed = False

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
        async with self._place(deadline):
            response = await self._post(request, await self._loaded(deadline), deadline)
            events = _events(response)
            try:
                while (chunk := await self._next(events, answer, deadline)) is not None:
                    for piece in answer.feed(chunk):
                        yield piece
                    deadline = next_deadline(answer, self._timeouts, deadline)
                for piece in answer.finish():
                    yield piece
            finally:
                # llama.cpp ends an answer when its connection is closed.
                await events.aclose()
                await response.aclose()

    async def close(self) -> None:
        """Also while it is loaded, which can't be broken off, or answers: these answers fail."""
        self._closed = True
        loading, self._loading = self._loading, None
        if loading is None:
            return
        loaded = await loading
        if isinstance(loaded, _Loaded):
            await loaded.client.aclose()
            await asyncio.to_thread(loaded.engine.free)

    @contextlib.asynccontextmanager
    async def _place(self, deadline: float) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout_at(deadline):
                await self._places.acquire()
        except TimeoutError:
            words = f"The model {self._name} answers others at the moment."
            raise ModelError("provider_overloaded", words, retryable=True) from None
        try:
            yield
        finally:
            self._places.release()

    async def _loaded(self, deadline: float) -> _Loaded:
        if self._closed:
            raise self._gone()
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        loading = self._loading
        try:
            async with asyncio.timeout_at(deadline):
                loaded = await asyncio.shield(loading)
        except TimeoutError:
            raise failed(f"The model {self._name} is still being loaded.") from None
        if self._closed:
            raise self._gone()
        if isinstance(loaded, str):
            # What was in the way may be gone when the next request comes.
            if self._loading is loading:
                self._loading = None
            raise refused(f"The model {self._name} {loaded}.")
        if loaded.engine.alive:
            return loaded
        _log.error("the process of a local model ended, and is begun again", model=self._name)
        if self._loading is loading:
            self._loading = None
            await loaded.client.aclose()
            await asyncio.to_thread(loaded.engine.free)
        return await self._loaded(deadline)

    async def _load(self) -> _Loaded | str:
        """The model, or what is in the way."""
        try:
            engine = await asyncio.to_thread(Engine, self._file, self._context_window, self._slots)
        except MissingExtra as error:
            _log.error("a local model can't be loaded", model=self._name, reason=error.msg)
            return f"can't be loaded: {error.msg}"
        except EngineError as error:
            _log.error("a local model can't be loaded", model=self._name, reason=error.detail)
            return str(error)
        client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=engine.path),
            base_url=engine.url,
            headers={"Authorization": f"Bearer {engine.key}"},
            timeout=None,  # noqa: S113 - each wait has a deadline of its own
            trust_env=False,
        )
        return _Loaded(engine, client)

    async def _post(self, request: ModelRequest, loaded: _Loaded, deadline: float) -> httpx.Response:
        stop = {"stop": loaded.engine.stop} if loaded.engine.stop else {}
        body = msgspec.json.encode({**self._body, **stop, **chat_body(request, result_images=False), **self._extra})
        headers = {"Content-Type": "application/json"}
        message = loaded.client.build_request("POST", "/v1/chat/completions", content=body, headers=headers)
        try:
            async with asyncio.timeout_at(deadline):
                response = await loaded.client.send(message, stream=True)
                if response.status_code != 200:
                    async with contextlib.aclosing(response):
                        raise self._refusal(response.status_code, await response.aread())
                return response
        except TimeoutError:
            raise self._stalled() from None
        # RuntimeError: the client was closed in between.
        except (httpx.TransportError, RuntimeError):
            raise self._gone() from None

    async def _next(self, events: AsyncGenerator[bytes, None], answer: Answer, deadline: float) -> Chunk | None:
        """The next chunk, None at the end. A failure after the finish reason costs the usage, not the answer."""
        try:
            async with asyncio.timeout_at(deadline):
                event = await anext(events, _DONE)
            if event == _DONE:
                return None
            chunk = msgspec.json.decode(event, type=Chunk)
        except TimeoutError:
            failure = self._stalled()
        except (httpx.HTTPError, httpx.StreamError):
            failure = self._gone()
        except msgspec.DecodeError:
            failure = failed(f"The model {self._name} sent what is not a chat completion.")
        else:
            if not chunk.error:
                return chunk
            failure = reported_error(self._name, chunk.error)
        if answer.reason is not None:
            return None
        raise failure

    def _refusal(self, status: int, content: bytes) -> ModelError:
        """For an answer that did not begin; its text stays unsaid, since it may hold the conversation."""
        try:
            error = msgspec.json.decode(content, type=Chunk).error
        except msgspec.DecodeError:
            error = None
        reported = reported_error(self._name, error)
        if reported.code == "context_too_long":
            return reported
        if "image input is not supported" in describe(error):
            return refused(f"The model {self._name} can't look at images.")
        if 400 <= status < 500:
            return refused(f"The model {self._name} refused the request (status {status}); check its settings.")
        return failed(f"The model {self._name} failed with the status {status}.")

    def _stalled(self) -> ModelError:
        return failed(f"The model {self._name} stopped answering.")

    def _gone(self) -> ModelError:
        return failed(f"The model {self._name} was ended.")


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The data of the events, each of which llama.cpp writes in one line. Lines are those of the bytes: the text in
    them may hold what Unicode takes for the end of a line."""
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield line.removeprefix(_DATA)
