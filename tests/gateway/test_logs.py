"""What the gateway logs of a failure, by a process of its own, as logging is set once in each."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging
import structlog
from gateway.logs import configure_logs

configure_logs()

def fail(parameters):
    try:
        raise KeyError(parameters)
    except KeyError as error:
        raise ValueError(f"can't use {parameters}") from error

try:
    fail("the user's secret")
except ValueError as error:
    %s
"""
LOGGERS = {
    "structlog": 'structlog.get_logger("x").error("a tool failed", error_id="err_1", exc_info=error)',
    "logging": 'logging.getLogger("x").error("a tool failed: err_1", exc_info=error)',
}


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("statement", LOGGERS.values(), ids=LOGGERS.keys())
def test_a_failure_is_told_by_place_and_type_and_holds_no_content(statement: str) -> None:
    logged = _run(PROGRAM % statement).stderr
    assert "a tool failed" in logged
    assert "err_1" in logged
    assert "in fail" in logged
    assert logged.index("KeyError") < logged.index("ValueError")
    assert "secret" not in logged


def test_a_stream_that_takes_nothing_ends_nothing() -> None:
    full = 'import os, sys; sys.stderr = open("/dev/full", "w"); '
    program = PROGRAM % (full + LOGGERS["structlog"]) + 'print("goes on", flush=True)\nos._exit(0)\n'
    assert _run(program).stdout == "goes on\n"
