"""Gateway processes for tests: one's own, or one that a session's tests share, or a cluster in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, closing
from itertools import count
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest

from gateway.servers.valkey import ValkeyServer
from tests.e2e.cluster import Cluster, running_cluster
from tests.e2e.gateways import GatewayProcess
from tests.servers.postgres import lasting_database

FAST = """
[models.demo]
provider = "demo"
delay = 2
"""

EVERYWHERE = pytest.mark.parametrize("gateway", ["one", "cluster"], indirect=True)
"""For a test that leaves `gateway` as it found it: it is shared, and runs over one instance and over several."""

SHARED = pytest.mark.parametrize("gateway", ["one"], indirect=True)
"""For one that says nothing new about several instances: what it asks is answered within one."""


_G = TypeVar("_G", bound=GatewayProcess)


class Kept(Generic[_G]):
    """A gateway that tests share: made when it is first asked for, and started again where one has ended it."""

    def __init__(self, make: Callable[[], Awaitable[_G]]) -> None:
        self._make = make
        self._gateway: _G | None = None
        self._tenants = count(1)

    async def get(self) -> _G:
        """It, ready, with a tenant that nobody had before."""
        if self._gateway is None:
            self._gateway = await self._make()
        gateway = self._gateway
        if gateway.alive:
            await gateway.ready()
        else:
            await gateway.start()
        gateway.tenant = f"tenant{next(self._tenants)}"
        return gateway

    def close(self) -> None:
        if self._gateway is not None:
            self._gateway.kill()


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Kept[GatewayProcess]]:
    async def make() -> GatewayProcess:
        return GatewayProcess(tmp_path_factory.mktemp("gateway"), config=FAST)

    with closing(Kept(make)) as kept:
        yield kept


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> Generator[Kept[Cluster]]:
    async def make() -> Cluster:
        store = await lasting_database()
        return Cluster(tmp_path_factory.mktemp("cluster"), redis=valkey.url, store=store, config=FAST)

    with closing(Kept(make)) as kept:
        yield kept


@pytest.fixture
async def cluster(shared_cluster: Kept[Cluster]) -> Cluster:
    """Two instances of the demo model at 2 ms a word, which other tests use too."""
    return await shared_cluster.get()


@pytest.fixture
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway of the demo model at 2 ms a word: of the test's own, unless EVERYWHERE or SHARED say otherwise."""
    kind: str | None = getattr(request, "param", None)
    if kind is not None:
        kept: Kept[GatewayProcess] = request.getfixturevalue("shared_gateway" if kind == "one" else "shared_cluster")
        yield await kept.get()
        return
    async with GatewayProcess(tmp_path, config=FAST) as process:
        yield process


class Launch(Protocol):
    """Starts a gateway, or a cluster in its place, that the test may end as it likes."""

    def __call__(self, config: str) -> AbstractAsyncContextManager[GatewayProcess]: ...


@pytest.fixture(params=["one", "cluster"])
def launch(request: pytest.FixtureRequest, tmp_path: Path) -> Launch:
    if request.param == "one":
        return lambda config: GatewayProcess(tmp_path, config=config)
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    return lambda config: running_cluster(tmp_path, redis=valkey.url, config=config)
