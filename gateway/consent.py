"""Whether a call waits for a person: what the rules say of it, and what was decided before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.core.approval import Approvals, Rule, definition
from stores.records import Asked, ContextKey, Remembered

__all__ = ["Consent", "Decisions", "KnownTool", "to_remember"]

# After a definition: what a call was allowed that waits only the first time, by somebody who wanted nothing remembered.
_FIRST: Final = "/first"


class KnownTool(Struct, frozen=True, kw_only=True):
    """A tool as a person may judge it, wherever it runs; `approval` is its own rule, `session_id` that of the client
    whose tool it is."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    runs_on: Literal["server", "client"] = "server"
    approval: Rule = "never"
    session_id: str | None = None

    @property
    def definition(self) -> str:
        return definition(self.name, self.description, self.parameters, self.runs_on)


class Decisions(Protocol):
    """The part of the context store that is asked here."""

    async def remembered(self, key: ContextKey, definition: str) -> bool | None: ...


class Consent:
    """`approvals` are the configured rules. What is remembered is read only for a call that would have to wait."""

    def __init__(self, approvals: Approvals, decisions: Decisions) -> None:
        self._approvals = approvals
        self._decisions = decisions

    async def of(
        self, principal: Principal, key: ContextKey, tool: KnownTool, parameters: Mapping[str, Any]
    ) -> Literal["run", "ask", "deny"]:
        """What becomes of the call. Raises Unavailable."""
        verdict = self._verdict(principal, tool, parameters)
        if verdict == "run":
            return "run"
        decided = await self._decisions.remembered(key, tool.definition)
        if decided is None and verdict == "ask first":
            decided = await self._decisions.remembered(key, tool.definition + _FIRST)
        if decided is None:
            return "ask"
        return "run" if decided else "deny"

    def may_ask(self, principal: Principal, tool: KnownTool) -> bool:
        """Whether there are calls of the tool that wait for a person."""
        return self._approvals.may_ask(principal.roles, tool.name, tool.approval)

    def asked(self, principal: Principal, tool: KnownTool, parameters: Mapping[str, Any]) -> Asked:
        """What a person who is asked about the call decides about."""
        return Asked(tool.definition, first=self._verdict(principal, tool, parameters) == "ask first")

    def _verdict(self, principal: Principal, tool: KnownTool, parameters: Mapping[str, Any]) -> str:
        return self._approvals.decide(principal.roles, tool.name, tool.approval, parameters)


def to_remember(asked: Asked | None, *, approved: bool, wanted: bool) -> Remembered | None:
    """What a decision says of later calls: `asked` is what it is about, as it was when the call was made (a tool that
    has changed since is not what anybody saw), `wanted` whether the person said that it should be remembered. What
    nobody said counts only for calls that wait the first time, and not for one that a stricter rule has wait."""
    if asked is None:
        return None
    if wanted:
        return Remembered(asked.definition, approved)
    return Remembered(asked.definition + _FIRST, approved) if approved and asked.first else None
