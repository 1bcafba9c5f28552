"""Where the gateway's own words go: standard error, without content or credentials."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import ExcInfo

__all__ = ["configure_logs", "format_exception"]


class _Patient:
    """A stream whose failures end nothing: where the disk is full, a line is lost, not a turn."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def format_exception(stream: TextIO, exc_info: ExcInfo) -> None:
    """Where it happened and of what type it is, causes first. Neither locals nor the exception's own words, which may
    be what a user said or a tool was given."""
    error: BaseException | None = exc_info[1]
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.insert(0, error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for one in chain:
        stream.write("".join(traceback.format_tb(one.__traceback__)))
        stream.write(f"{type(one).__module__}.{type(one).__qualname__}\n")


class _Formatter(logging.Formatter):
    """For the libraries that log by the standard module."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class names it
        text = io.StringIO()
        if ei[1] is not None:
            format_exception(text, ei)
        return text.getvalue().rstrip()


def configure_logs() -> None:
    stream = _Patient()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter("%(asctime)s [%(levelname)s] %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=format_exception),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),  # type: ignore[arg-type]  # it needs no more of a file
    )
