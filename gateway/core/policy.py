"""Who may do what: roles give permissions, permissions give decisions.

A permission is a text such as `context:write`, `tool:calculator`, `resource:docs/a.md`, `message:system`. A role is a
list of patterns of permissions, in which `*` stands for any run of characters; a pattern that begins with `!` denies.
Of all patterns of all roles of a principal one that grants must match, and none that denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

__all__ = ["WITHOUT_ROLES", "Decision", "Policy", "matches"]

Decision = Literal["run", "ask", "deny"]

WITHOUT_ROLES = ("context:*", "tool:*", "resource:*")
"""What a principal may do to whom no role was given: all of its own, and everything that is not restricted."""


class _Patterns(NamedTuple):
    grants: frozenset[str]
    denials: frozenset[str]


class Policy:
    """`roles` are the configured roles by name. A role that a principal bears but nobody configured grants nothing.

    In every method `roles` are the principal's: None where no role was given to it, which means `WITHOUT_ROLES`;
    any list of roles, an empty one too, means exactly what these roles grant.
    """

    def __init__(self, roles: Mapping[str, Sequence[str]]) -> None:
        """Raises ValueError, naming the role, for a pattern that could never match."""
        self._roles = {name: _compile(name, patterns) for name, patterns in roles.items()}
        self._without_roles = _compile("", WITHOUT_ROLES)

    def may(self, roles: Sequence[str] | None, permission: str) -> bool:
        """Whether the principal has `permission`, a text without wildcards."""
        held = [self._without_roles] if roles is None else [self._roles[role] for role in roles if role in self._roles]
        if any(_match_any(patterns.denials, permission) for patterns in held):
            return False
        return any(_match_any(patterns.grants, permission) for patterns in held)

    def may_use(self, roles: Sequence[str] | None, subject: str, restriction: str | None = None) -> bool:
        """Whether the principal may use the thing `subject` (`tool:<name>`, `resource:<uri>`).

        A thing with a `restriction` (ToolSettings.permission) needs both: its own name granted, so that a role's list
        says all that the role can reach, and the restriction's permission, so that a broad `tool:*` does not open what
        its author closed. Without a role nothing restricted may be used, whatever the restriction is called.
        """
        if restriction is None:
            return self.may(roles, subject)
        return roles is not None and self.may(roles, subject) and self.may(roles, restriction)

    def decide_tool(
        self,
        roles: Sequence[str] | None,
        tool: str,
        *,
        approval: Literal["never", "always"] = "never",
        permission: str | None = None,
    ) -> Decision:
        """What becomes of a call: "deny" where the principal may not use the tool, "ask" where a person has to approve
        it first. `approval` and `permission` are the tool's settings."""
        if not self.may_use(roles, f"tool:{tool}", permission):
            return "deny"
        return "ask" if approval == "always" else "run"


def matches(pattern: str, text: str) -> bool:
    """Whether `text` fits `pattern`, in which `*` stands for any run of characters, an empty one too.

    Each piece between wildcards is looked for once, so that a hostile text can't make it slow.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    *middle, last = rest
    if not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end


def _match_any(patterns: Iterable[str], text: str) -> bool:
    return any(matches(pattern, text) for pattern in patterns)


def _compile(role: str, patterns: Sequence[str]) -> _Patterns:
    grants: set[str] = set()
    denials: set[str] = set()
    for pattern in patterns:
        text = pattern.removeprefix("!")
        if not text or text.startswith("!") or text != text.strip():
            raise ValueError(f"role {role!r}: {pattern!r} is not a permission pattern such as 'tool:calculator'")
        (denials if pattern.startswith("!") else grants).add(text)
    return _Patterns(frozenset(grants), frozenset(denials))
