"""A provider that remembers what it was asked, and a gateway that asks it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.testing.openai_script import Finish, Reply, Text, Usage
from gateway.testing.openai_server import FakeOpenAI, ReceivedRequest
from tests.e2e.gateways import GatewayProcess

__all__ = ["asked", "counted", "gateway_of", "prompts"]

CONFIG = """
[models.fake]
provider = "openai"
model = "m"
base_url = "{base_url}"
timeouts = {{ connect = 5, first_token = 20, between_tokens = 20 }}
{model}

{rest}
"""


def counted(request: ReceivedRequest, text: str, tokens: Callable[[str], int] = len) -> Reply:
    """An answer whose usage is right: `tokens` of all that was asked and said."""
    asked = sum(tokens(str(message.get("content") or "")) + 4 for message in request.body["messages"])
    return Reply(steps=[Text(text), Finish(), Usage(prompt_tokens=asked, completion_tokens=tokens(text))])


def asked(request: ReceivedRequest) -> str:
    """The last thing that the user said."""
    return str(request.body["messages"][-1]["content"])


def prompts(provider: FakeOpenAI) -> list[list[str]]:
    """The texts of each request, oldest first."""
    return [[_text(message) for message in request.body["messages"]] for request in provider.requests]


def _text(message: dict[str, Any]) -> str:
    return str(message.get("content"))


@asynccontextmanager
async def gateway_of(
    provider: FakeOpenAI, folder: Path, *, model: str = "", rest: str = ""
) -> AsyncGenerator[GatewayProcess]:
    """A gateway whose only model is the provider's; `model` and `rest` are lines of its settings."""
    config = CONFIG.format(base_url=provider.base_url, model=model, rest=rest)
    async with GatewayProcess(folder, config=config) as gateway:
        yield gateway
