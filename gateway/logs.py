"""Where the gateway's own words go: standard error, one line each, without content or credentials."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import structlog

__all__ = ["configure_logs"]


class _Patient:
    """A stream whose failures end nothing: where the disk is full, a line is lost, not a turn."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure_logs() -> None:
    stream = _Patient()
    logging.basicConfig(level=logging.WARNING, handlers=[logging.StreamHandler(stream)])
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),  # type: ignore[arg-type]  # it needs no more of a file
    )
