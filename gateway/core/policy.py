"""Who may do what: roles and users have permissions, permissions give decisions.

A permission is a text such as `context:write`, `tool:calculator`, `resource:docs/a.md`, `message:system`. A role is a
list of patterns of permissions, in which `*` stands for any run of characters; a pattern that begins with `!` denies.
Of all patterns of all roles of a principal, and of its own, one that grants must match, and none that denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

__all__ = ["WITHOUT_ROLES", "Bearer", "Policy", "matches"]

WITHOUT_ROLES = ("context:*", "tool:*", "resource:*", "prompt:*")
"""What a principal may do to whom no role was given: all of its own, and everything that is not restricted."""


class Bearer(Protocol):
    """Whoever bears roles: a principal. `roles` None where no role was given to it, which means `WITHOUT_ROLES`; any
    list of roles, an empty one too, means exactly what these roles grant."""

    @property
    def roles(self) -> Sequence[str] | None: ...

    @property
    def owner(self) -> str: ...


class _Patterns(NamedTuple):
    grants: frozenset[str]
    denials: frozenset[str]


class Policy:
    """`roles` are the configured roles by name, `users` what single principals have besides, by their owner. A role
    that a principal bears but nobody configured grants nothing."""

    def __init__(
        self, roles: Mapping[str, Sequence[str]], users: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Raises ValueError, naming the role or user, for a pattern that could never match."""
        self._roles = {name: _compile(f"role {name!r}", patterns) for name, patterns in roles.items()}
        self._users = {owner: _compile(f"user {owner!r}", patterns) for owner, patterns in users.items()}
        self._without_roles = _compile("", WITHOUT_ROLES)

    def may(self, who: Bearer, permission: str) -> bool:
        """Whether the principal has `permission`, a text without wildcards."""
        held = self._given(who)
        if who.roles is None:
            held.append(self._without_roles)
        return _allow(held, permission)

    def may_use(self, who: Bearer, subject: str, restriction: str | None = None) -> bool:
        """Whether the principal may use the thing `subject` (`tool:<name>`, `resource:<uri>`).

        A thing with a `restriction` (ToolSettings.permission) needs both: its own name granted, so that a role's list
        says all that the role can reach, and the restriction's permission, so that a broad `tool:*` does not open what
        its author closed. The restriction's must have been given to the principal, to a role or by name, whatever it
        is called: what everybody has without a role opens nothing restricted.
        """
        return self.may(who, subject) and (restriction is None or _allow(self._given(who), restriction))

    def _given(self, who: Bearer) -> list[_Patterns]:
        """What was given to the principal, by roles and by name."""
        names = [*(self._roles.get(role) for role in who.roles or ()), self._users.get(who.owner)]
        return [patterns for patterns in names if patterns is not None]


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


def _allow(held: Sequence[_Patterns], permission: str) -> bool:
    if any(_match_any(patterns.denials, permission) for patterns in held):
        return False
    return any(_match_any(patterns.grants, permission) for patterns in held)


def _compile(whose: str, patterns: Sequence[str]) -> _Patterns:
    grants: set[str] = set()
    denials: set[str] = set()
    for pattern in patterns:
        text = pattern.removeprefix("!")
        if not text or text.startswith("!") or text != text.strip():
            raise ValueError(f"{whose}: {pattern!r} is not a permission pattern such as 'tool:calculator'")
        (denials if pattern.startswith("!") else grants).add(text)
    return _Patterns(frozenset(grants), frozenset(denials))
