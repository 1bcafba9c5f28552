"""The formats that a response may have, by the name in `?format=`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from gateway.http.format import Format
from gateway.http.tidegate_format import TidegateFormat
from protocol.errors import ProtocolError

__all__ = ["FORMATS", "format_of"]


def _ag_ui() -> Format:
    # Its types take a while to load, and are there only where the extra is.
    from gateway.http.ag_ui import AgUiFormat

    return AgUiFormat()


def _ai_sdk() -> Format:
    from gateway.http.ai_sdk import AiSdkFormat

    return AiSdkFormat()


FORMATS: dict[str, Callable[[], Format]] = {"tidegate": TidegateFormat, "ag-ui": _ag_ui, "ai-sdk": _ai_sdk}


def format_of(request: Request) -> Format:
    """A format for the response to this request. Raises ProtocolError where there is none of that name."""
    name = request.query_params.get("format", "tidegate")
    make = FORMATS.get(name)
    if make is None:
        raise ProtocolError("invalid_frame", f"format is one of {', '.join(FORMATS)}", path="format")
    try:
        return make()
    except ImportError as error:
        missing = f"this gateway was installed without it: pip install 'tidegate[{name}]'"
        raise ProtocolError("invalid_frame", missing, path="format") from error
