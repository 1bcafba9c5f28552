"""The layout and the direction of imports (docs/design.md, Layout), from the syntax trees."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("protocol", "stores", "gateway")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "gateway",
    "protocol",
    "stores",
    "tests",
    "bench",
    "Procfile",
    "Makefile",
    "docs",
    "LICENSE",
    "CHANGELOG.md",
    "requirements.lock",
}
IMPURE = {"asyncio", "time", "random", "secrets", "os", "socket", "threading", "sqlite3", "httpx", "pathlib"}
ADAPTERS = {
    "stores.memory": {"gateway/app.py", "stores/connect.py"},
    "stores.sqlite": {"gateway/app.py", "stores/connect.py"},
    "gateway.models.demo": {"gateway/models/demo_settings.py"},
    "gateway.models.openai": {"gateway/models/openai_settings.py"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            yield module
            # `from stores import memory` names a module just as well.
            yield from (f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    forbidden = {
        "protocol": ("stores", "gateway", "tests", "bench"),
        "stores": ("gateway", "tests", "bench"),
        "gateway": ("tests", "bench"),
    }[package]
    assert not [name for name in imports(path) if name.split(".")[0] in forbidden]


@pytest.mark.parametrize("path", sorted((ROOT / "gateway" / "core").glob("*.py")), ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    found = list(imports(path))
    ours = [name for name in found if name.split(".")[0] in PACKAGES]
    allowed = ("gateway.core", "protocol", "stores.records")
    assert not [name for name in ours if not any(name == a or name.startswith(f"{a}.") for a in allowed)]
    others = [name for name in found if name not in ours and name.split(".")[0] not in sys.stdlib_module_names]
    assert {name.split(".")[0] for name in others} <= {"msgspec"}
    assert not [name for name in found if name.split(".")[0] in IMPURE]


@pytest.mark.parametrize("path", sorted((ROOT / "protocol").glob("*.py")), ids=name_of)
def test_the_protocol_needs_msgspec_and_does_no_io(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} <= {"protocol", "msgspec", *sys.stdlib_module_names}
    assert not [name for name in imports(path) if name.split(".")[0] in IMPURE - {"time", "secrets"}]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_adapters_are_named_in_one_place(path: Path) -> None:
    for name in imports(path):
        if name in ADAPTERS and not name_of(path).startswith("stores/sqlite"):
            assert name_of(path) in ADAPTERS[name]


@pytest.mark.parametrize("path", [p for p in FILES if not p.name.startswith("_")], ids=name_of)
def test_modules_say_what_is_public(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert module.__all__
    assert not [name for name in module.__all__ if not hasattr(module, name)]
    assert module.__doc__


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_broad_handler_gives_its_reason(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ExceptHandler):
            kind = node.type.id if isinstance(node.type, ast.Name) else "" if node.type is None else "narrow"
            raised_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if kind in ("", "Exception", "BaseException") and not raised_on:
                line, above = lines[node.lineno - 1], lines[node.lineno - 2].strip()
                assert " - " in line.partition("#")[2] or above.startswith("#"), f"{name_of(path)}:{node.lineno}"


def test_the_top_level_is_the_users() -> None:
    # Also what is not added yet, but not what git ignores.
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
