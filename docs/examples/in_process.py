"""Asks a model from a script: no server, no socket, and still a conversation that is kept.

python docs/examples/in_process.py "count 3"
"""

from __future__ import annotations

import asyncio
import sys

from gateway import Gateway, Principal, Settings


def stock(article: str) -> dict[str, int]:
    """How many pieces of an article are in stock."""
    return {"pieces": 3 * len(article)}


async def main(question: str) -> None:
    settings = Settings.of(
        store={"url": "sqlite:///in_process.db"},
        models={"demo": {"provider": "demo", "delay": 5}},
    )
    gateway = Gateway(settings, tools=[stock])
    user = Principal(tenant="shop", subject="script")
    async with gateway.running(), gateway.connect(user) as client:
        async for text in client.stream(question, context_id="daily"):
            print(text, end="", flush=True)
        print()
        print(len(client.transcript("daily").events), "events in this conversation")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or 'call stock {"article": "bolt"}'))
