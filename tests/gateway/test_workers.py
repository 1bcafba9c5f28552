"""Keeps processes running, and ends them: with real ones that do as little as they can."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from gateway.workers import (
    Supervisor,
    _signals,  # pyright: ignore[reportPrivateUsage]
    worker_options,
)

# Writes its role and process to a file of its own, then lives until it is told to end.
STAYS = """
import os, signal, sys
def end(*_):
    sys.exit({status})
signal.signal(signal.SIGTERM, end)
with open(os.path.join(os.environ["PLACE"], "new"), "w") as note:
    note.write(f"{{sys.argv[-1]}} {{os.getpid()}}")
os.rename(note.name, os.path.join(os.environ["PLACE"], str(os.getpid())))
while True:
    signal.pause()
"""


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.supervisor: Supervisor

    def supervise(self, script: str, count: int = 2) -> None:
        env = os.environ | {"PLACE": str(self.folder)}
        self.supervisor = Supervisor([sys.executable, "-c", script], count, env)

    def poll_until(self, wanted: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end
            self.supervisor.poll(self.now)
            time.sleep(0.005)

    def workers(self) -> dict[int, str]:
        """The role of each process that has begun, by its id."""
        return {int(path.name): path.read_text().split()[0] for path in self.folder.iterdir() if path.name != "new"}

    def end(self, seconds: float = 20) -> int:
        statuses: list[int] = []

        def over() -> bool:
            status = self.supervisor.poll(self.now)
            statuses.extend([status] if status is not None else [])
            return bool(statuses)

        self.poll_until(over, seconds)
        return statuses[0]


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    made = World(tmp_path)
    yield made
    for pid in made.workers():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_one_of_the_workers_is_the_first(world: World) -> None:
    world.supervise(STAYS.format(status=0), 3)
    world.poll_until(lambda: len(world.workers()) == 3)
    assert sorted(world.workers().values()) == ["first", "other", "other"]
    world.supervisor.stop(world.now, 1)
    assert world.end() == 0


def test_a_worker_that_died_is_started_again_after_a_while_and_is_not_the_first_any_more(world: World) -> None:
    world.supervise(STAYS.format(status=0), 1)
    world.poll_until(lambda: len(world.workers()) == 1)
    (pid,) = world.workers()
    os.kill(pid, signal.SIGKILL)
    world.poll_until(lambda: not _alive(pid))
    for _ in range(3):
        world.supervisor.poll(world.now)
    assert len(world.workers()) == 1
    world.now += 0.6
    world.poll_until(lambda: len(world.workers()) == 2)
    assert sorted(world.workers().values()) == ["first", "other"]
    world.supervisor.stop(world.now, 1)
    assert world.end() == 0


def test_workers_that_can_not_start_end_it_all_with_their_status(world: World) -> None:
    world.supervise("import sys; sys.exit(3)")

    def tick() -> bool:
        world.now += 0.02
        return world.supervisor.poll(world.now) == 3

    world.poll_until(tick)


def test_a_worker_that_fails_at_its_end_shows(world: World) -> None:
    world.supervise(STAYS.format(status=7), 1)
    world.poll_until(lambda: len(world.workers()) == 1)
    world.supervisor.stop(world.now, 1)
    assert world.end() == 7


def test_a_worker_that_does_not_end_in_time_is_killed(world: World) -> None:
    world.supervise(STAYS.format(status=0).replace("sys.exit(0)", "pass"), 1)
    world.poll_until(lambda: len(world.workers()) == 1)
    world.supervisor.stop(world.now, 1)
    world.now += 17
    assert world.end() == 0
    assert not any(_alive(pid) for pid in world.workers())


def test_the_second_stop_kills(world: World) -> None:
    world.supervise(STAYS.format(status=0).replace("sys.exit(0)", "pass"), 2)
    world.poll_until(lambda: len(world.workers()) == 2)
    world.supervisor.stop(world.now, 60)
    world.supervisor.stop(world.now, 60)
    assert world.end() == 0


def test_workers_get_the_options_that_name_their_settings() -> None:
    assert worker_options(Path("a.toml"), None, "demo") == ["--config", "a.toml", "--model", "demo"]


def _alive(pid: int) -> bool:
    """Whether it runs; who ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_signal_is_noted_and_does_nothing_by_itself() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with _signals() as heard:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert sorted(heard) == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
