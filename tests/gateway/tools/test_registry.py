from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.tools.builtin import TOOLS, calculator, clock
from gateway.tools.native import NativeTool
from gateway.tools.port import ToolSettings
from gateway.tools.registry import RegistryError, ToolRegistry

HEADER = "from gateway import tool\n"


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Writes modules that can be imported during the test."""
    before = set(sys.modules)
    sys.path.insert(0, str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - before:
        del sys.modules[name]


class Misnamed(NativeTool[[], None]):
    def __init__(self) -> None:
        super().__init__(lambda: None, "fine", ToolSettings())

    @property
    def name(self) -> str:
        return "not fine"


def test_holds_tools_by_name_in_order() -> None:
    registry = ToolRegistry(TOOLS)
    assert registry.get("clock") is clock
    assert registry.get("unheard-of") is None
    assert [tool.name for tool in registry] == ["calculator", "countdown", "clock"]
    assert len(registry) == 3


def test_specs_are_of_all_or_of_those_that_are_named() -> None:
    registry = ToolRegistry(TOOLS)
    assert [spec.name for spec in registry.specs()] == ["calculator", "countdown", "clock"]
    (spec,) = registry.specs(["calculator", "unheard-of", "calculator"])
    assert (spec.name, spec.description) == (calculator.name, calculator.description)
    assert spec.parameters == calculator.parameters


def test_two_tools_of_one_name_are_refused_the_same_tool_twice_is_not() -> None:
    registry = ToolRegistry([clock, clock])
    assert len(registry) == 1
    other = NativeTool(lambda: None, "clock", ToolSettings())
    with pytest.raises(RegistryError, match=r"two tools are named 'clock': that of gateway\.tools\.builtin"):
        registry.add(other)
    assert registry.get("clock") is clock


def test_a_malformed_name_is_refused() -> None:
    with pytest.raises(RegistryError, match="tool name 'not fine'"):
        ToolRegistry([Misnamed()])


def test_loads_the_tools_of_modules(module: Callable[[str, str], None]) -> None:
    module("tidegate_test_one", f"{HEADER}@tool\ndef one() -> int:\n    return 1\ndef helper(): pass\n")
    module("tidegate_test_two", f"from tidegate_test_one import one\n{HEADER}@tool\ndef two() -> int:\n    return 2\n")
    registry = ToolRegistry()
    registry.load(["tidegate_test_one", "tidegate_test_two"])
    assert [tool.name for tool in registry] == ["one", "two"]


@pytest.mark.parametrize("name", ["tidegate_test_absent", "tidegate_test_absent.sub", "gateway.absent"])
def test_a_module_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(RegistryError, match=f"module '{name}' was not found"):
        ToolRegistry().load([name])


@pytest.mark.parametrize("name", ["", ".relative"])
def test_what_is_no_module_name_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match="is not the name of a module"):
        ToolRegistry().load([name])


def test_a_module_without_tools_is_refused() -> None:
    with pytest.raises(RegistryError, match="module 'json' has no function that carries @tool"):
        ToolRegistry().load(["json"])


def test_what_a_module_raises_passes_through(module: Callable[[str, str], None]) -> None:
    module("tidegate_test_needs", "import tidegate_test_unheard_of\n")
    module("tidegate_test_wrong", "raise ValueError('its own')\n")
    with pytest.raises(ModuleNotFoundError, match="tidegate_test_unheard_of"):
        ToolRegistry().load(["tidegate_test_needs"])
    with pytest.raises(ValueError, match="its own"):
        ToolRegistry().load(["tidegate_test_wrong"])
