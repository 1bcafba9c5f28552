"""Every adapter of ContextStore, opened anew for each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stores.ports import ContextStore
from tests.stores.context_stores import Clock, OpenStore, open_postgres, open_reference, open_sharded, open_sqlite


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[open_sqlite, open_sharded, open_postgres], ids=["sqlite", "sharded", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[ContextStore]:
    """Stores for use, with clocks, titles and pages."""
    open_store: OpenStore = request.param
    async with open_store(tmp_path, clock) as opened:
        yield opened


@pytest.fixture(
    params=[open_sqlite, open_sharded, open_postgres, open_reference],
    ids=["sqlite", "sharded", "postgres", "reference"],
)
async def any_store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[ContextStore]:
    """All stores, also those that are only for tests."""
    open_store: OpenStore = request.param
    async with open_store(tmp_path, clock) as opened:
        yield opened
