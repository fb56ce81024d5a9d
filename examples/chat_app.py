"""A chat service over the agent of openai_agent.py: plain ASGI, no framework.

The middleware decides one `ai_agent_run` for each question before the service sees it, and answers a denial with 429, 402
or 403. The agent reserves the tokens of each call of the model; that it is denied later, before the first text, is
answered likewise. A client that goes away ends the agent, which commits what was streamed until then.

    python examples/chat_app.py
    curl -N http://127.0.0.1:8601/chat -H "X-Customer: acme" -d "Why is the sky blue?"
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import uvicorn
from openai import AsyncOpenAI

from addresses import PROVIDER_URL, REDIS_URL
from openai_agent import answer
from spendgate import Gate
from spendgate.asgi import App, GateMiddleware, Receive, Scope, Send


def customer_of(scope: Scope) -> str | None:
    """A header stands in for authentication here. In a service, take the customer from the session or the token:
    whoever can choose this text chooses who pays."""
    found = next((value for name, value in scope["headers"] if name == b"x-customer"), None)
    return found.decode("latin-1") if found else None


def create_app(gate: Gate, openai: AsyncOpenAI) -> App:
    """The service over a gate and a provider that somebody else closes."""

    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        question = await _body(receive)
        streaming = asyncio.create_task(stream(answer(gate, openai, str(customer_of(scope)), question), send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({streaming, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            streaming.cancel()  # does nothing when it is done
        with suppress(asyncio.CancelledError):
            await streaming

    return GateMiddleware(chat, gate=gate, customer=customer_of, meter="ai_agent_run")


async def stream(answered: AsyncGenerator[str, None], send: Send) -> None:
    """Send texts as they come. The answer begins with the first, so that a denial before it can still be a status."""
    begun = False
    async with aclosing(answered) as texts:
        async for text in texts:
            if not begun:
                headers = [(b"content-type", b"text/plain; charset=utf-8")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                begun = True
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> str:
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    return body.decode()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def main() -> None:
    async with Gate.from_url(REDIS_URL) as gate, AsyncOpenAI(base_url=f"{PROVIDER_URL}/v1", api_key="none") as openai:
        config = uvicorn.Config(create_app(gate, openai), port=8601, lifespan="off")
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main())
