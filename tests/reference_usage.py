"""A UsageStore of a plain list: the port's contract (stores/ports) in its shortest form."""

from __future__ import annotations

from msgspec.structs import replace

from stores.records import ContextKey, NewUsage, UsageBy, UsagePage, UsageRow

__all__ = ["ReferenceUsage"]


class ReferenceUsage:
    """Every call that was added, with its owner and context. It sums them up when it is asked."""

    def __init__(self) -> None:
        self._calls: list[tuple[ContextKey, NewUsage]] = []
        self._ids: set[tuple[str, str]] = set()

    def add(self, key: ContextKey, usage: NewUsage) -> None:
        self._calls.append((key, usage))

    def add_once(self, key: ContextKey, id: str, usage: NewUsage) -> bool:
        if (key.owner, id) in self._ids:
            return False
        self._ids.add((key.owner, id))
        self.add(key, usage)
        return True

    def forget(self, key: ContextKey) -> None:
        gone = ContextKey(key.owner, "")
        self._calls = [(gone if of == key else of, usage) for of, usage in self._calls]

    def page(
        self, tenant: str, owner: str | None, first: str, last: str, by: UsageBy, after: str | None, limit: int
    ) -> UsagePage:
        names: dict[str, UsageRow] = {}
        total = UsageRow(name="")
        for key, usage in self._calls:
            if first <= usage.day <= last and (usage.tenant == tenant if owner is None else key.owner == owner):
                name = {"day": usage.day, "context": key.id, "model": usage.model, "subject": usage.subject}[by]
                names[name] = _plus(names.get(name, UsageRow(name=name)), usage)
                total = _plus(total, usage)
        following = [names[name] for name in sorted(names) if after is None or name > after]
        return UsagePage(following[:limit], len(following) > limit, total)


def _plus(row: UsageRow, usage: NewUsage) -> UsageRow:
    return replace(
        row,
        input_tokens=row.input_tokens + usage.input_tokens,
        output_tokens=row.output_tokens + usage.output_tokens,
        cached_tokens=row.cached_tokens + usage.cached_tokens,
        reasoning_tokens=row.reasoning_tokens + usage.reasoning_tokens,
        cached_responses=row.cached_responses + usage.cached_responses,
        steps=row.steps + 1,
        estimated_steps=row.estimated_steps + usage.estimated,
        cost=row.cost + usage.cost,
    )
