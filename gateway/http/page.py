"""`GET /`: a page that says what runs here, and shows one conversation live."""

from __future__ import annotations

import secrets
from importlib.metadata import version
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth.authenticator import LOCAL, Authenticator
from gateway.auth.tickets import Tickets
from gateway.settings import Settings
from protocol.errors import ProtocolError

__all__ = ["page_routes"]

_PAGE = Path(__file__).parent / "page.html"


def page_routes(tickets: Tickets, authenticator: Authenticator, settings: Settings) -> list[Route]:
    """In local mode the printed one-time ticket opens the page as the user `local`: it is redeemed here, and the page
    is given the secret of this process instead, so that it can reconnect."""
    template = _PAGE.read_text(encoding="utf-8")
    models = {name: model.provider for name, model in settings.models.items()}

    async def known(request: Request) -> bool:
        """Whether the host's application knows who looks, so that the page needs no token."""
        try:
            return await authenticator.from_host(request) is not None
        except ProtocolError:
            return False

    async def page(request: Request) -> Response:
        token: str | None = None
        ticket = request.query_params.get("ticket")
        # HEAD shows no page, so it must not use the ticket up.
        local = authenticator.local_token if request.method == "GET" else None
        if ticket is not None and local is not None and await tickets.redeem(ticket) == LOCAL:
            token = local
        facts = {
            "version": version("tidegate"),
            "models": models,
            "local": authenticator.local_token is not None,
            "known": await known(request),
            "tokens": settings.auth.jwt is not None,
            "token": token,
        }
        # `<` would let a text end the script element.
        data = orjson.dumps(facts).decode().replace("<", "\\u003c")
        nonce = secrets.token_urlsafe(16)
        body = template.replace("{{nonce}}", nonce).replace("{{facts}}", data)
        return Response(body, media_type="text/html", headers=_headers(nonce))

    return [Route("/", page, methods=["GET"])]


def _headers(nonce: str) -> dict[str, str]:
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
