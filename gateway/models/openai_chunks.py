"""From the chunks of an OpenAI chat completion to the pieces of an answer; pure.

The shapes are those of `chat.completion.chunk` (OpenAI API reference) with every field optional, because compatible
servers leave out, repeat or invent some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, field

from gateway.models.answer_parts import MAX_ARGUMENTS, Channel, cut_call, read_call, too_long_call
from gateway.models.port import CallReady, Finish, ModelError, ModelPiece
from protocol.frames import Usage

__all__ = ["MAX_ARGUMENTS", "Answer", "Chunk"]

_BROKEN = ("content_filter", "error", "abort")


class FunctionFragment(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallFragment(Struct):
    index: int | None = None
    id: str | None = None
    function: FunctionFragment | None = None


class ChunkDelta(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[CallFragment] | None = None


class Choice(Struct):
    index: int | None = 0
    delta: ChunkDelta | None = None
    finish_reason: str | None = None


class TokenDetails(Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ChunkUsage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None


class Chunk(Struct):
    choices: list[Choice] | None = None
    usage: ChunkUsage | None = None
    error: Any = None


class _OpenCall(Struct):
    """A call whose fragments are still coming."""

    index: int | None
    id: str | None
    name: str = ""
    arguments: str = ""
    whole: dict[str, Any] | None = None
    too_long: bool = False

    def add(self, function: FunctionFragment) -> None:
        # A name that comes again, whole, is a repetition; before the arguments another part is a continuation.
        if function.name and not self.has_arguments and function.name != self.name:
            self.name += function.name
        if isinstance(function.arguments, dict):
            self.whole = function.arguments
        elif function.arguments:
            self.too_long = self.too_long or len(self.arguments) + len(function.arguments) > MAX_ARGUMENTS
            if not self.too_long:
                self.arguments += function.arguments

    @property
    def has_arguments(self) -> bool:
        return bool(self.arguments) or self.whole is not None

    def ready(self, *, cut: bool) -> CallReady:
        """`cut` says that the answer reached its limit here, so that no arguments at all may be a part of some."""
        if cut and not self.has_arguments:
            return cut_call(self.name)
        if self.whole is not None:
            return CallReady(self.name, self.whole)
        if self.too_long:
            return too_long_call(self.name)
        return read_call(self.name, self.arguments)


class Answer(Struct):
    """One answer: `feed` it every chunk, then `finish` it. `begun` says that a piece or a part of a call came."""

    model: str
    begun: bool = False
    reason: str | None = None
    usage: Usage | None = None
    _call: _OpenCall | None = None
    _text: Channel = field(default_factory=lambda: Channel("text"))
    _reasoning: Channel = field(default_factory=lambda: Channel("reasoning"))

    def feed(self, chunk: Chunk) -> Iterator[ModelPiece]:
        """The pieces that are complete with this chunk. Raises ModelError where the provider gave up."""
        if chunk.usage:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if choice.delta:
                for piece in self._delta(choice.delta):
                    self.begun = True
                    yield piece
            if choice.finish_reason:
                self.reason = choice.finish_reason
                if self.reason in _BROKEN:
                    self._call = None
                yield from self._end_call()

    def finish(self) -> Iterator[ModelPiece]:
        """What is left, and the Finish. Raises ModelError where the answer was not whole or was withheld."""
        if self.reason is None:
            raise self._failed("broke off its answer before the end", retryable=True)
        if self.reason == "content_filter":
            raise self._failed("had its answer stopped by the provider's content filter", retryable=False)
        if self.reason in _BROKEN:
            raise self._failed("gave up its answer", retryable=True)
        yield from self._text.end()
        yield from self._reasoning.end()
        yield from self._end_call()
        yield Finish("length" if self.reason == "length" else "stop", self.usage)

    def _delta(self, delta: ChunkDelta) -> Iterator[ModelPiece]:
        # Where a server fills both, they are the same text under an old and a new name.
        reasoning = delta.reasoning_content or delta.reasoning
        if isinstance(reasoning, str):
            yield from self._reasoning.add(reasoning)
        yield from self._text.add((delta.content or "") + (delta.refusal or ""))
        for fragment in delta.tool_calls or ():
            self.begun = True
            yield from self._fragment(fragment)

    def _fragment(self, fragment: CallFragment) -> Iterator[CallReady]:
        function = fragment.function or FunctionFragment()
        if self._call is None or _begins(self._call, fragment, function):
            yield from self._end_call()
            self._call = _OpenCall(fragment.index, fragment.id)
        self._call.add(function)

    def _failed(self, what: str, *, retryable: bool) -> ModelError:
        return ModelError("provider_error", f"The model {self.model} {what}.", retryable=retryable)

    def _end_call(self) -> Iterator[CallReady]:
        call, self._call = self._call, None
        if call is None:
            return
        if not call.name:
            raise self._failed("called a tool without a name", retryable=True)
        yield call.ready(cut=self.reason == "length")


def _begins(call: _OpenCall, fragment: CallFragment, function: FunctionFragment) -> bool:
    """Whether the fragment belongs to another call than the open one. Servers that send whole calls give all of them
    the index 0, or none, and some give every fragment an id of its own: a name tells these apart."""
    if fragment.index is not None and call.index is not None and fragment.index != call.index:
        return True
    if not function.name:
        return False
    if fragment.id and call.id and fragment.id != call.id:
        return True
    anonymous = fragment.index is None and not fragment.id
    return call.has_arguments and (anonymous or function.name != call.name)


def _usage(usage: ChunkUsage) -> Usage:
    cached = usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens
    reasoning = usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=cached or 0,
        reasoning_tokens=reasoning or 0,
    )
