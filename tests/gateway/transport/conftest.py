"""Every test of the transport runs on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_used: list[asyncio.AbstractEventLoop] = []


class _Loop(uvloop.Loop):
    """uvloop's `close` waits for ever where a connection that was cut is not quite gone: the process ends it instead,
    and the loop is kept until then."""

    def close(self) -> None:
        _used.append(self)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": _Loop}
