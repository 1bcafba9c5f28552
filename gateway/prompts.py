"""Prompts: what servers keep ready to be said, listed and made into the content of a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.core.policy import Policy
from protocol.content import plain_text
from protocol.errors import ProtocolError
from protocol.frames import Content, ImagePart, PromptUse, ResourcePart, TextPart

__all__ = ["PromptArgument", "PromptInfo", "PromptLine", "PromptSource", "Prompts", "begun_with"]

_MAX_PARTS = 256


class PromptArgument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    description: str | None = None
    required: bool = False


class PromptInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a prompt before it is used; its arguments are texts."""

    name: str
    description: str | None = None
    arguments: Sequence[PromptArgument] = ()


class PromptLine(Struct, frozen=True):
    """One thing that a prompt says, in whose name."""

    role: Literal["user", "assistant"]
    part: TextPart | ImagePart


class PromptSource(Protocol):
    """Prompts that come and go, and may be other ones for every principal."""

    async def prompts(self, principal: Principal) -> Sequence[PromptInfo]:
        """All that there are, as far as that is known within a few seconds. Raises nothing."""
        ...

    async def prompt(self, principal: Principal, name: str, arguments: Mapping[str, str]) -> Sequence[PromptLine]:
        """What the prompt says. Raises ProtocolError `not_found`, `invalid_frame` where the arguments are refused,
        `unavailable`."""
        ...


class Prompts:
    """The prompts of all sources, as far as a policy allows: `prompt:<name>`."""

    def __init__(self, policy: Policy, sources: Sequence[PromptSource] = (), max_bytes: int = 1_048_576) -> None:
        self._policy = policy
        self._sources = tuple(sources)
        self._max_bytes = max_bytes

    async def all(self, principal: Principal) -> list[PromptInfo]:
        """What the principal may use; of prompts with the same name the first one counts."""
        return [info for info, _ in (await self._found(principal)).values()]

    async def content(self, principal: Principal, use: PromptUse, path: str = "prompt") -> Content:
        """What the prompt says, as one message of the user. Raises ProtocolError with the path of what is wrong."""
        return self._joined(await self._lines(principal, use, path), path)

    async def lines(self, principal: Principal, use: PromptUse, path: str = "prompt") -> Sequence[PromptLine]:
        """What the prompt says, and in whose name. Raises as `content` does."""
        lines = await self._lines(principal, use, path)
        self._check_size([line.part for line in lines], path)
        return lines

    async def _lines(self, principal: Principal, use: PromptUse, path: str) -> Sequence[PromptLine]:
        info, source = (await self._found(principal)).get(use.name, (None, None))
        if info is None or source is None:
            raise ProtocolError("not_found", f"there is no prompt {use.name!r} for you", path=f"{path}.name")
        given = use.arguments or {}
        _check(info, given, f"{path}.arguments")
        return await source.prompt(principal, use.name, given)

    async def _found(self, principal: Principal) -> dict[str, tuple[PromptInfo, PromptSource]]:
        found: dict[str, tuple[PromptInfo, PromptSource]] = {}
        for source in self._sources:
            for info in await source.prompts(principal):
                if self._policy.may(principal, f"prompt:{info.name}"):
                    found.setdefault(info.name, (info, source))
        return found

    def _joined(self, lines: Sequence[PromptLine], path: str) -> Content:
        """A conversation that a prompt brings is told to the model as one."""
        alone = all(line.role == "user" for line in lines)
        parts = [part for line in lines for part in _parts(line, alone=alone)]
        self._check_size(parts, path)
        if all(isinstance(part, TextPart) for part in parts):
            return "\n\n".join(plain_text([part]) for part in parts)
        return [*parts]

    def _check_size(self, parts: Sequence[TextPart | ImagePart], path: str) -> None:
        if not parts or len(parts) > _MAX_PARTS:
            raise ProtocolError("not_found", f"the prompt says nothing, or more than {_MAX_PARTS} things", path=path)
        if len(msgspec.json.encode(parts)) > self._max_bytes:
            raise ProtocolError("too_large", f"the prompt has more than {self._max_bytes} bytes", path=path)


def begun_with(prompt: Content, said: Content) -> Content:
    """The content of a message that a prompt begins and its user goes on with."""
    if isinstance(prompt, str) and isinstance(said, str):
        return f"{prompt}\n\n{said}" if said else prompt
    return [*_as_parts(prompt), *_as_parts(said)]


def _as_parts(content: Content) -> list[TextPart | ImagePart | ResourcePart]:
    if isinstance(content, str):
        return [TextPart(text=content)] if content else []
    return content


def _parts(line: PromptLine, *, alone: bool) -> list[TextPart | ImagePart]:
    if alone:
        return [line.part]
    who = "User" if line.role == "user" else "Assistant"
    if isinstance(line.part, TextPart):
        return [TextPart(text=f"{who}: {line.part.text}")]
    return [TextPart(text=f"{who}:"), line.part]


def _check(info: PromptInfo, given: Mapping[str, str], path: str) -> None:
    known = {argument.name for argument in info.arguments}
    for name in given:
        if name not in known:
            raise ProtocolError("invalid_frame", f"the prompt has no argument {name[:64]!r}", path=path)
    for argument in info.arguments:
        if argument.required and argument.name not in given:
            raise ProtocolError("invalid_frame", f"the prompt needs the argument {argument.name!r}", path=path)
