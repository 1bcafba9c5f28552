"""What `from gateway import …` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gateway


def test_every_name_is_there() -> None:
    assert set(gateway.__all__) == {
        "Answer",
        "Authenticate",
        "Client",
        "Gateway",
        "Principal",
        "Settings",
        "SettingsError",
        "ToolContext",
        "ToolError",
        "connect",
        "load_settings",
        "tool",
    }
    assert dir(gateway) == sorted(gateway.__all__)
    for name in gateway.__all__:
        assert getattr(gateway, name).__module__.startswith("gateway.") or name == "Authenticate"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(gateway, "nothing")  # noqa: B009 - the name that is not there is the point


def test_a_module_of_tools_does_not_load_the_gateway() -> None:
    code = "import sys, gateway; print([name for name in ('starlette', 'websockets', 'httpx') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
