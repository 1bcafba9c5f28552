"""The code of the README runs as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tomllib
from pathlib import Path

from tests.e2e.gateways import GatewayProcess

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


async def _run(code: str, **env: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=os.environ | env
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_twenty_lines_of_python_chat(gateway: GatewayProcess) -> None:
    chat, *_ = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "connect(" in code)
    assert "http://127.0.0.1:8000" in chat
    said = await _run(chat.replace("http://127.0.0.1:8000", gateway.url), TIDEGATE_KEY=gateway.key())
    assert said.startswith('countdown answered: {"counted":5}')
    assert "TurnEnd(" in said


async def test_the_gateway_mounts_in_five_lines(tmp_path: Path) -> None:
    code = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "FastAPI(" in code)
    served = """
from starlette.testclient import TestClient
with TestClient(app) as host:
    print(host.get("/chat/readyz").status_code, host.get("/chat/v1/contexts").status_code)
"""
    said = await _run(f"import os; os.chdir({str(tmp_path)!r})\n{code}{served}")
    assert said.split() == ["200", "401"]


async def test_the_settings_of_each_provider_are_settings() -> None:
    from gateway.settings import Settings

    sections = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]
    models = {name: model for section in sections for name, model in section.get("models", {}).items()}
    assert [model["provider"] for model in models.values()] == ["openai", "anthropic", "openai"]
    assert list(Settings.of(models=models).models) == list(models)


async def test_the_tool_is_one(tmp_path: Path) -> None:
    code = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@tool" in code)
    (tmp_path / "my_tools.py").write_text(code)
    listed = await _run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import my_tools; print(my_tools.charge)")
    assert listed
    config = '[tools]\nmodules = ["my_tools"]\n'
    folder = tmp_path / "data"
    folder.mkdir()
    started = GatewayProcess(folder, config=config)
    os_path = os.environ.get("PYTHONPATH", "")
    await started.start(PYTHONPATH=f"{tmp_path}{os.pathsep}{os_path}")
    started.kill()
