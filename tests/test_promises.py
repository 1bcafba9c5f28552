"""Each promise of docs/protocol.md, section 4, is carried by a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PROTOCOL = TESTS.parent / "docs" / "protocol.md"


def promised() -> set[str]:
    section = PROTOCOL.read_text(encoding="utf-8").partition("## 4. ")[2].partition("\n## ")[0]
    return set(re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE))


def carried() -> Iterator[tuple[str, str]]:
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    (promise,) = (argument.value for argument in mark.args if isinstance(argument, ast.Constant))
                    yield str(promise), node.name


def test_every_promise_is_carried_by_a_test_and_no_test_carries_another() -> None:
    assert promised() == {"1", "2", "3", "4", "5", "6"}
    assert {promise for promise, _ in carried()} == promised()
