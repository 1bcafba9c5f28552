"""What clients say, and what the demo model makes of it (docs/design.md, Command line and settings)."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from tests.torture.frames import Frame

__all__ = ["ASK", "ONCE", "calls_of", "text_of_long", "what_to_call", "what_to_say"]

# The tool that every device declares: its user answers, at that device.
ASK: Frame = {
    "name": "ask",
    "description": "Ask the user.",
    "parameters": {"type": "object", "properties": {"mark": {"type": "string"}}, "required": ["mark"]},
}

# Tools that are not idempotent (tests/torture/tools.py): each run is in the ledger.
ONCE = frozenset({"charge", "toil", "wipe"})

_WEIGHTS = {
    "long": 30,
    "echo": 8,
    "count": 7,
    "calc": 8,
    "both": 10,
    "charge": 14,
    "toil": 6,
    "lookup": 6,
    "grind": 6,
    "wipe": 5,
    "ask": 6,
}


def what_to_say(rng: random.Random, mark: str) -> str:
    """A message's content. `mark` is in what a tool gets, so that no call of two messages is the same."""
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    if kind == "long":
        return f"long {rng.randint(10, 150)}"
    if kind == "echo":
        return f"hello from {mark}"
    if kind == "count":
        return f"count {rng.randint(1, 12)}"
    if kind == "calc":
        return f"calc {rng.randint(1, 999)} {rng.choice('+-*')} {rng.randint(1, 999)}"
    if kind == "both":
        return rng.choice(("both", "Both"))
    return f"call {kind} {json.dumps(_parameters(kind, rng, mark))}"


def what_to_call(rng: random.Random, mark: str) -> Frame:
    """The tool and the parameters of a direct call."""
    name = rng.choice(("charge", "charge", "toil", "lookup", "grind"))
    return {"tool": name, "parameters": _parameters(name, rng, mark)}


def _parameters(name: str, rng: random.Random, mark: str) -> dict[str, Any]:
    if name in ("toil", "grind"):
        return {"mark": mark, "steps": rng.randint(2, 25)}
    return {"mark": mark}


def calls_of(content: str) -> list[tuple[str, str]]:
    """The tools that the model calls for this, in order, with their parameters as JSON of sorted keys."""
    words = content.split()
    if content.lower() == "both":
        return [("calculator", _json({"operation": "multiply", "a": 6, "b": 7})), ("countdown", _json({"count": 3}))]
    if words[0] == "count":
        return [("countdown", _json({"count": int(words[1])}))]
    if words[0] == "calc":
        operation = {"+": "add", "-": "subtract", "*": "multiply"}[words[2]]
        return [("calculator", _json({"operation": operation, "a": int(words[1]), "b": int(words[3])}))]
    if words[0] == "call":
        return [(words[1], _json(json.loads(content.split(maxsplit=2)[2])))]
    return []


def text_of_long(content: str) -> str | None:
    """What the model answers to `long N`."""
    found = re.fullmatch(r"long (\d+)", content)
    if found is None:
        return None
    return "".join(f"{number} " for number in range(1, int(found[1]) + 1))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
