"""A shop with an assistant: the gateway mounted into a FastAPI application, behind the shop's own sign-in.

uvicorn --app-dir docs/examples fastapi_app:app

Then open http://127.0.0.1:8000/sign-in?name=ann, which leads to the chat page.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from gateway import Gateway, Principal, Settings, ToolContext, tool

ORDERS = {"ann": ["kettle", "lamp"], "bob": ["chair"]}


@tool
async def orders(ctx: ToolContext) -> list[str]:
    """What the customer has ordered."""
    # The principal is whom `who` below answered: a model can't ask for the orders of anybody else.
    return ORDERS.get(ctx.principal.subject, [])


def who(connection: HTTPConnection) -> Principal | None:
    """The shop's sessions, for the gateway: of requests and of sockets."""
    session = connection.cookies.get("shop_session")
    if session is None:
        return None  # an API key of the gateway's, if there is one
    customers: dict[str, str] = connection.app.state.customers
    if session not in customers:
        raise HTTPException(401, "sign in again")
    return Principal(tenant="shop", subject=customers[session])


gateway = Gateway(
    Settings.of(
        store={"url": os.environ.get("SHOP_STORE", "sqlite:///shop.db")},
        models={"demo": {"provider": "demo", "delay": 5}},
    ),
    tools=[orders],
    authenticate=who,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.customers = {}
    async with gateway.running():
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/assistant", gateway.app)


@app.get("/sign-in")
async def sign_in(name: str) -> RedirectResponse:
    """An example's sign-in, which believes everybody."""
    session = secrets.token_urlsafe(32)
    app.state.customers[session] = name
    reply = RedirectResponse("/assistant/", 303)
    reply.set_cookie("shop_session", session, httponly=True, samesite="lax")
    return reply


def customer(connection: HTTPConnection) -> Principal:
    """The same sessions, for the shop's own endpoints."""
    principal = who(connection)
    if principal is None:
        raise HTTPException(401, "sign in")
    return principal


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


@app.post("/ask")
async def ask(question: Question, principal: Annotated[Principal, Depends(customer)]) -> Answer:
    """An endpoint of the shop's own that asks the model, in a conversation which the chat page shows too."""
    async with gateway.connect(principal) as client:
        return Answer(text="".join([text async for text in client.stream(question.text, context_id="page")]))
