"""Where the gateway's own words go: standard error, without content or credentials."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo

__all__ = ["configure_logs", "format_exception", "route_logs"]


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
        return "" if ei[1] is None else _exception_text(ei)


def route_logs() -> None:
    """Within a host's application: hand every line to the standard library's `logging`, unless the host has configured
    structlog itself. structlog's own default would print the locals of a traceback, and so what users say."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.ExceptionRenderer(_exception_text),
            _line,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


_pairs = structlog.processors.KeyValueRenderer()


def _line(logger: Any, name: str, fields: EventDict) -> str:
    event, trace = fields.pop("event"), fields.pop("exception", None)
    text = f"{event} {_pairs(logger, name, fields)}".rstrip()
    return text if trace is None else f"{text}\n{trace}"


def _exception_text(exc_info: ExcInfo) -> str:
    text = io.StringIO()
    format_exception(text, exc_info)
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
