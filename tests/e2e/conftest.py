"""A gateway process for a module's tests, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.gateways import GatewayProcess

FAST = """
[models.demo]
provider = "demo"
delay = 2
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway of the demo model at 2 ms a word."""
    async with GatewayProcess(tmp_path, config=FAST) as process:
        yield process
