"""The code of the README runs as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

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


async def test_the_mcp_servers_with_others_in_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway import Gateway, Principal
    from gateway.settings import Settings
    from gateway.testing.mcp_plain import plain_command
    from gateway.testing.mcp_server import FakeMCP
    from protocol.frames import ToolCall, ToolResponse

    monkeypatch.setenv("GITHUB_TOKEN", "a-token")
    sections = tomllib.loads(
        next(text for text in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "[mcp." in text)
    )
    file = json.loads(next(text for text in re.findall(r"```json\n(.*?)```", README, re.DOTALL)))
    command, args = plain_command()
    for server in (sections["mcp"]["files"], file["mcpServers"]["time"]):
        server |= {"command": command, "args": args}
    (tmp_path / sections["tools"]["mcp_servers"]).write_text(json.dumps(file))
    sections["tools"]["mcp_servers"] = str(tmp_path / sections["tools"]["mcp_servers"])
    github = FakeMCP()
    async with github.http() as sections["mcp"]["github"]["url"]:
        settings = Settings.of(
            store={"url": f"sqlite:///{tmp_path / 'readme.db'}"},
            models={"demo": {"provider": "demo", "delay": 0}},
            **sections,
        )
        calls: dict[str, ToolCall] = {}
        answers: dict[str, ToolResponse] = {}
        gateway, ann = Gateway(settings), Principal(tenant="t", subject="ann")
        async with gateway.running(), gateway.connect(ann) as client, asyncio.timeout(30):
            said = "\n".join(f'call {server}__echo {{"text": "to {server}"}}' for server in ("files", "github", "time"))
            async for event in await client.ask(said, "chat"):
                if isinstance(event, ToolCall):
                    calls[event.tool] = event
                    if event.approval == "required":
                        await client.approve("chat", event.id)
                elif isinstance(event, ToolResponse):
                    answers[event.tool_call_id] = event
    assert {tool: call.approval for tool, call in calls.items()} == {
        "files__echo": "required",
        "github__echo": "required",
        "time__echo": None,
    }
    assert len({call.message_id for call in calls.values()}) == 1
    assert {tool: answers[call.id].result for tool, call in calls.items()} == {
        f"{server}__echo": f"to {server}" for server in ("files", "github", "time")
    }
    assert github.calls[0].headers["authorization"] == "Bearer a-token"
