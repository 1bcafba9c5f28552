"""Which calls wait for a person: the rules, and which of several counts (docs/tools.md, Approval).

A rule is "always", "never", "first" (until somebody approved a call in the context), or conditions on parameters
(gateway/core/conditions.py): `{when = {amount = {gt = 100}}}` asks where all of them hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from gateway.core import conditions
from gateway.core.policy import matches

__all__ = ["Approvals", "Rule", "Verdict", "When", "definition", "evaluate", "rule_of"]

Verdict = Literal["run", "ask", "ask first"]

_NAME_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-*")


class When(Struct, frozen=True, forbid_unknown_fields=True):
    when: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        conditions.check(self.when)


Rule = Literal["always", "never", "first"] | When


def rule_of(given: object) -> Rule:
    """The rule that `given` is, or is written as. Raises ValueError, which says what was expected."""
    try:
        return msgspec.convert(msgspec.to_builtins(given), Rule)
    except (msgspec.ValidationError, TypeError) as error:
        reason = str(error).partition(" - at ")[0]
        expected = "'always', 'never', 'first' or {'when': {…}}"
        raise ValueError(f"an approval is {expected}, not {given!r}: {reason}") from error


def evaluate(rule: Rule, parameters: Mapping[str, Any]) -> Verdict:
    """What the rule says of a call with these parameters."""
    if isinstance(rule, When):
        return "ask" if conditions.hold(rule.when, parameters) else "run"
    return _VERDICTS[rule]


def definition(name: str, description: str, parameters: Mapping[str, Any], runs_on: Literal["server", "client"]) -> str:
    """What a decision about a tool is remembered under: its name, and a digest of all that whoever decided could know
    of it, so that a tool that becomes another one is asked about again."""
    known = msgspec.json.encode([name, description, parameters, runs_on], order="sorted")
    return f"{name}@{hashlib.sha256(known).hexdigest()}"


class Approvals:
    """The configured rules, by patterns of tool names, in which `*` stands for any run of characters: `roles` are those
    of each role, `tools` those for everybody.

    For a call a rule of the principal's roles counts, else one for everybody, else the tool's own. Of several patterns
    the longest counts; of several roles, or of patterns that are as long, the strictest.
    """

    def __init__(self, roles: Mapping[str, Mapping[str, Rule]], tools: Mapping[str, Rule]) -> None:
        """Raises ValueError for a pattern that no tool's name could match."""
        for pattern in (pattern for rules in (*roles.values(), tools) for pattern in rules):
            if not pattern or not _NAME_CHARACTERS.issuperset(pattern):
                raise ValueError(f"{pattern!r} is not a pattern of tool names such as 'github__*'")
        self._roles = {role: dict(rules) for role, rules in roles.items()}
        self._tools = dict(tools)

    def decide(self, roles: Sequence[str] | None, tool: str, own: Rule, parameters: Mapping[str, Any]) -> Verdict:
        """`roles` are the principal's, `own` is the rule of the tool itself."""
        verdicts = {evaluate(rule, parameters) for rule in self._rules(roles, tool, own)}
        return next(verdict for verdict in _STRICTEST_FIRST if verdict in verdicts)

    def may_ask(self, roles: Sequence[str] | None, tool: str, own: Rule) -> bool:
        """Whether there are calls that wait for a person."""
        return any(rule != "never" for rule in self._rules(roles, tool, own))

    def _rules(self, roles: Sequence[str] | None, tool: str, own: Rule) -> Sequence[Rule]:
        of_roles: list[Rule] = []
        for role in roles or ():
            of_roles += _longest(self._roles.get(role, {}), tool)
        return of_roles or _longest(self._tools, tool) or (own,)


_VERDICTS: Final[Mapping[str, Verdict]] = {"always": "ask", "never": "run", "first": "ask first"}
_STRICTEST_FIRST: Final[tuple[Verdict, ...]] = ("ask", "ask first", "run")


def _longest(rules: Mapping[str, Rule], tool: str) -> Sequence[Rule]:
    """The rules of the longest patterns that the name matches."""
    fitting = [pattern for pattern in rules if matches(pattern, tool)]
    length = max(map(len, fitting), default=0)
    return [rules[pattern] for pattern in fitting if len(pattern) == length]
