"""The page that a browser sees when it comes back from an authorization server: plain HTML that loads nothing."""

from __future__ import annotations

from html import escape

from starlette.responses import Response

from gateway.mcp.oauth_records import Finished, FlowRefused

__all__ = ["finished_page", "refused_page"]

_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title></head>'
    "<body><h1>{title}</h1>{text}</body></html>"
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # The address holds a code: it goes nowhere, and is kept nowhere.
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def finished_page(finished: Finished) -> Response:
    server, subject = escape(finished.server), escape(finished.subject)
    if finished.code is None:
        return _page("Connected", f"<p>{server} is connected for {subject}. You may close this page.</p>")
    return _page(
        "One more step",
        f"<p>To connect {server} for {subject}, enter this code where you began:</p>"
        f"<p><strong>{escape(finished.code)}</strong></p>"
        f"<p>Give it to nobody. If you are not {subject}, or somebody sent you here, close this page: nothing is "
        "connected.</p>",
    )


def refused_page(refused: FlowRefused) -> Response:
    return _page("Not connected", f"<p>{escape(str(refused))}</p>", 503 if refused.again else 400)


def _page(title: str, text: str, status: int = 200) -> Response:
    return Response(_PAGE.format(title=title, text=text), status, _HEADERS, media_type="text/html")
