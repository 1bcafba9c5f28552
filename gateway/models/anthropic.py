"""Any model behind Anthropic's Messages API, or a server compatible with it, through the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

from gateway.models.anthropic_events import Answer, Event, read_event
from gateway.models.anthropic_messages import messages_body
from gateway.models.anthropic_steps import Steps, running_steps, step_key
from gateway.models.deadlines import next_deadline
from gateway.models.port import AssistantInput, ModelError, ModelPiece, ModelRequest
from gateway.models.settings import Timeouts

try:
    import anthropic
    import httpx2
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the provider \"anthropic\" needs an extra: pip install 'tidegate[anthropic]'", name=error.name
    ) from error

from gateway.models.anthropic_errors import (
    DRIVER_ERRORS,
    model_error,
    rejects_system_role,
    rejects_thinking,
    reported_error,
)

__all__ = ["ANTHROPIC_URL", "AnthropicModel"]

ANTHROPIC_URL = "https://api.anthropic.com"

Json = dict[str, Any]
_Stream = anthropic.AsyncStream[object]


class AnthropicModel:
    """`model` is the provider's name for it, `name` ours. `base_url`, with or without the `/v1` at its end, None for
    Anthropic itself; `api_key` None is for servers that want none. `extra` is added to the body of every request and
    wins over what we put there; a `cache_control` in it replaces our marks.

    With `extra["thinking"]` what the model thinks comes as reasoning. While a tool loop runs, its thinking goes back to
    the provider; where this process does not know it (another one began the turn, an approval changed the parameters of
    a call), a thinking with `type` "enabled", which the provider would then refuse, is left out until the loop is over.
    """

    def __init__(
        self,
        name: str,
        model: str,
        api_key: str | None,
        base_url: str | None = None,
        *,
        context_window: int = 200_000,
        max_tokens: int = 8_192,
        temperature: float | None = None,
        extra: Mapping[str, Any] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._name = name
        self._context_window = context_window
        self._max_tokens = max_tokens
        self._timeouts = timeouts or Timeouts()
        self._system_in_place = True
        self._steps = Steps()
        self._temperature = temperature
        self._extra = dict(extra or {})
        self._thinking = _thinking(self._extra)
        self._body: Json = {"model": model, "stream": True, "max_tokens": max_tokens}
        # Key, headers and URL are always given, so that the SDK takes none from the environment; retries are ours, and
        # so are traces, which the environment could fill with what is said.
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key or "none",
            base_url=(base_url or ANTHROPIC_URL).rstrip("/").removesuffix("/v1"),
            default_headers=_credentials(api_key, own=base_url is None),
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=self._timeouts.connect, pool=self._timeouts.connect),
            open_telemetry=False,
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
        events = await self._open(request, deadline)
        try:
            while (event := await self._next(events, answer, deadline)) is not None:
                for piece in answer.feed(event):
                    yield piece
                deadline = next_deadline(answer, self._timeouts, deadline)
            if answer.reason is None and not answer.begun:
                self._check_content_type(events)
            last = list(answer.finish())
            # Before the pieces that end the answer: whoever has the last may ask for the next step at once.
            self._remember(request, answer)
            for piece in last:
                yield piece
        finally:
            await events.close()

    async def close(self) -> None:
        await self._client.close()

    async def _open(self, request: ModelRequest, deadline: float) -> _Stream:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._post(request)
        except TimeoutError:
            raise self._stalled() from None
        except DRIVER_ERRORS as error:
            # The cause holds the provider's own text, which must not reach a log.
            raise model_error(self._name, error) from None

    async def _post(self, request: ModelRequest) -> _Stream:
        steps = self._recall(request)
        while True:
            body = self._body_of(request, steps)
            try:
                return await self._send(body)
            except anthropic.APIStatusError as error:
                if steps is not None and running_steps(request.inputs) and rejects_thinking(error):
                    # Such as the signature of another model under the same name.
                    steps = None
                elif _has_system_role(body) and rejects_system_role(error):
                    self._system_in_place = False
                else:
                    raise

    def _body_of(self, request: ModelRequest, steps: Mapping[int, list[Json]] | None) -> Json:
        """`steps` None: without any thinking."""
        messages = messages_body(
            request,
            steps=steps,
            system_in_place=self._system_in_place,
            cache="cache_control" not in self._extra,
        )
        body = {**self._body, **messages}
        thinking = self._thinking if steps is not None else None
        if self._temperature is not None and thinking is None:
            # With thinking, the API takes none but its default.
            body["temperature"] = self._temperature
        body |= self._extra
        if steps is None:
            body.pop("thinking", None)
        return body

    async def _send(self, body: Json) -> _Stream:
        """`post` instead of `messages.create`, since building the SDK's own types takes 0.1 ms an event, and building
        ours a microsecond."""
        return await self._client.post(
            "/v1/messages", cast_to=object, body=body, stream=True, stream_cls=anthropic.AsyncStream[object]
        )

    def _recall(self, request: ModelRequest) -> dict[int, list[Json]] | None:
        """The blocks of the running tool loop's steps by index, as far as they are known; None where the provider
        would refuse to think with what is known."""
        running = running_steps(request.inputs)
        steps: dict[int, list[Json]] = {}
        for index in running:
            said = cast("AssistantInput", request.inputs[index])
            blocks = self._steps.recall(step_key(request.owner, request.inputs[:index], said))
            if blocks is not None:
                steps[index] = blocks
        if self._thinking == "enabled" and len(steps) < len(running):
            return None
        return steps

    def _remember(self, request: ModelRequest, answer: Answer) -> None:
        step = answer.step
        if step.calls and answer.blocks is not None and (self._thinking or answer.thought):
            self._steps.remember(step_key(request.owner, request.inputs, step), answer.blocks)

    async def _next(self, events: _Stream, answer: Answer, deadline: float) -> Event | None:
        """The next event, None at the end. A failure after the stop reason does not cost the answer."""
        try:
            async with asyncio.timeout_at(deadline):
                event = read_event(await anext(events))
        except StopAsyncIteration:
            return None
        except TimeoutError:
            failure = self._stalled()
        except DRIVER_ERRORS as error:
            failure = model_error(self._name, error)
        else:
            if event.type != "error":
                return event
            failure = reported_error(self._name, {"error": event.error})
        if answer.reason is not None:
            return None
        raise failure

    def _stalled(self) -> ModelError:
        return ModelError("provider_error", f"The model {self._name} stopped answering.", retryable=True)

    def _check_content_type(self, events: _Stream) -> None:
        kind = events.response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            raise ModelError(
                "provider_error",
                f"The provider of the model {self._name} answered with no event stream; check base_url.",
                retryable=False,
            )


def _credentials(api_key: str | None, *, own: bool) -> dict[str, str]:
    """The headers with the key. Many compatible servers look for it where Anthropic's API had it first."""
    headers: dict[str, Any] = {
        "Authorization": f"Bearer {api_key or 'none'}",
        "X-Api-Key": anthropic.Omit() if own or api_key is None else api_key,
    }
    return headers


def _thinking(extra: Mapping[str, Any]) -> str | None:
    """The `type` of the configured thinking; None where there is none."""
    thinking = extra.get("thinking")
    kind: Any = cast("Json", thinking).get("type") if isinstance(thinking, dict) else None
    return kind if isinstance(kind, str) and kind != "disabled" else None


def _has_system_role(body: Json) -> bool:
    return any(message["role"] == "system" for message in body["messages"])
