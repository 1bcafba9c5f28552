"""`tidegate` with a wall clock that is wrong by TORTURE_SKEW seconds, and an event loop that stalls on SIGUSR1 for as
long as the file TORTURE_STALL says."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path
from types import FrameType
from typing import Any

__all__: list[str] = []

_time, _time_ns = time.time, time.time_ns


def _skew_time(seconds: float) -> None:
    time.time = lambda: _time() + seconds
    time.time_ns = lambda: _time_ns() + int(seconds * 1e9)


def _skew_datetime(seconds: float) -> None:
    """In the modules that ask it for the time. What they decode to and compare with stays the real type."""

    class Kind(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, datetime)

    class Skewed(datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(_time() + seconds, tz)

        @classmethod
        def fromtimestamp(cls, timestamp: float, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(timestamp, tz)

    for name, module in tuple(sys.modules.items()):
        if name.split(".")[0] in ("gateway", "stores") and getattr(module, "datetime", None) is datetime:
            vars(module)["datetime"] = Skewed


def _stall(number: int, frame: FrameType | None) -> None:
    time.sleep(float(Path(os.environ["TORTURE_STALL"]).read_text()))


def main() -> None:
    skew = float(os.environ.get("TORTURE_SKEW", "0"))
    signal.signal(signal.SIGUSR1, _stall)
    if skew:
        _skew_time(skew)
    importlib.import_module("gateway.serve")  # the modules that ask for the time
    from gateway.cli import main as tidegate

    if skew:
        _skew_datetime(skew)
    tidegate()


if __name__ == "__main__":
    main()
