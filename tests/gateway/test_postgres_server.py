"""A PostgreSQL server of one's own: made, started, ended, and gone with whoever started it."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from gateway.servers.postgres import PostgresServer, ServerError, run_postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Generator[Path]:
    """One that every user may reach: as root the server runs as another one."""
    made = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
    made.chmod(0o755)
    yield made / "data"
    shutil.rmtree(made)


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_what_was_stored_is_there_when_it_runs_again(folder: Path) -> None:
    with run_postgres(folder) as server:
        await ask(server.url, "CREATE TABLE kept AS SELECT 7 AS n")
    with pytest.raises(OSError):  # noqa: PT011 - whatever the system says of a port that nobody listens at
        await ask(server.url, "SELECT 1")
    with run_postgres(folder, server.port) as again:
        assert again.url == server.url
        assert await ask(again.url, "SELECT n FROM kept") == 7
        again.kill()
        again.start()
        assert await ask(again.url, "SELECT n FROM kept") == 7


def test_a_folder_that_is_in_use_is_left_alone(folder: Path) -> None:
    with run_postgres(folder, hasty=True), pytest.raises(ServerError, match="did not start"):
        PostgresServer(folder, hasty=True).start()


def test_a_port_that_is_in_use_is_told(folder: Path) -> None:
    with run_postgres(folder, hasty=True) as server, pytest.raises(ServerError, match="did not start"):
        PostgresServer(folder.with_name("other"), server.port, hasty=True).start()


def test_a_folder_that_is_no_database_is_told(folder: Path) -> None:
    folder.mkdir()
    (folder / "letter").write_text("not a database")
    with pytest.raises(ServerError, match="could not be set up"):
        PostgresServer(folder).start()
    assert (folder / "letter").exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_in_the_foreground_until_it_is_told_to_end(folder: Path, how: signal.Signals) -> None:
    with _foreground(folder) as (process, url):
        assert asyncio.run(ask(url, "SELECT 1")) == 1
        process.send_signal(how)
        assert process.wait(10) == 0
        assert not (folder / "postmaster.pid").exists(), "it ended in order"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_it_ends_with_a_parent_that_is_killed(folder: Path) -> None:
    with _foreground(folder) as (process, _):
        server = int((folder / "postmaster.pid").read_text().split("\n")[0])
        process.kill()
        process.wait(10)
        _until_gone(server)


def _until_gone(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], 10)
        assert ended
    finally:
        os.close(descriptor)


@contextmanager
def _foreground(folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gateway.servers.postgres", "--port", str(port), "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.terminate()
