"""An agent loop over OpenAI's streamed chat completions: each call of the model runs under a reservation.

What a call may use at most is reserved before it; what OpenAI reports is committed after it. A caller that goes away in
the middle, an error, a cancelled task: what was streamed until then is committed, and the rest is free again.

    python examples/openai_agent.py acme "Why is the sky blue?"
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from addresses import PROVIDER_URL, REDIS_URL
from renewal import Renewal
from spendgate import Denied, Gate

MODEL = "gpt-5-mini"
MAX_OUTPUT_TOKENS = 1_000
LIFETIME_SECONDS = 60
CHARACTERS_PER_TOKEN = 4

TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        },
    }
]


async def answer(
    gate: Gate, openai: AsyncOpenAI, customer_id: str, question: str, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[str, None]:
    """The agent's answer as it comes. Raises Denied when the next call of the model does not fit the contract."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    while True:
        calls: dict[int, dict[str, str]] = {}
        async with aclosing(_said(gate, openai, customer_id, messages, calls, clock)) as texts:
            async for text in texts:
                yield text
        if not calls:
            return
        messages += _results(calls)


async def _said(
    gate: Gate,
    openai: AsyncOpenAI,
    customer_id: str,
    messages: list[ChatCompletionMessageParam],
    calls: dict[int, dict[str, str]],
    clock: Callable[[], float],
) -> AsyncGenerator[str, None]:
    """One call of the model: its text as it comes; the tools that it wants are put into `calls`."""
    prompt_tokens = len(json.dumps(messages)) // CHARACTERS_PER_TOKEN + 1
    async with gate.reserve(
        customer_id,
        quantities={"tokens.input": prompt_tokens, "tokens.output": MAX_OUTPUT_TOKENS},
        metadata={"model": MODEL},
        lifetime_seconds=LIFETIME_SECONDS,
    ) as run:
        stream = await openai.chat.completions.create(
            model=MODEL,
            messages=messages,
            tools=TOOLS,
            max_completion_tokens=MAX_OUTPUT_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        run.add(prompt_tokens, "tokens.input")  # from here on it is billed, whatever becomes of the answer
        renewal = Renewal(run, LIFETIME_SECONDS, clock)
        async with stream:
            async for chunk in stream:
                await renewal.renew()
                if chunk.usage is not None:  # the last chunk: the truth instead of our count
                    used = {"tokens.input": chunk.usage.prompt_tokens, "tokens.output": chunk.usage.completion_tokens}
                    run.commit(quantities=used)
                for choice in chunk.choices:
                    _collect(calls, choice.delta.tool_calls)
                    if choice.delta.content:
                        run.add(1, "tokens.output")  # a chunk is about a token
                        yield choice.delta.content


def _collect(calls: dict[int, dict[str, str]], deltas: Any) -> None:
    """A call of a tool comes in parts: its name first, then its arguments bit by bit."""
    for delta in deltas or ():
        call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
        call["id"] += delta.id or ""
        call["name"] += delta.function.name or ""
        call["arguments"] += delta.function.arguments or ""


def _results(calls: dict[int, dict[str, str]]) -> list[ChatCompletionMessageParam]:
    """What the model asked for, and what the tools found."""
    asked: ChatCompletionMessageParam = {
        "role": "assistant",
        "tool_calls": [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in calls.values()
        ],
    }
    found: list[ChatCompletionMessageParam] = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"found: {json.loads(call['arguments'])['query']}"}
        for call in calls.values()
    ]
    return [asked, *found]


async def main(customer_id: str, question: str) -> None:
    async with Gate.from_url(REDIS_URL) as gate, AsyncOpenAI(base_url=f"{PROVIDER_URL}/v1", api_key="none") as openai:
        try:
            async with aclosing(answer(gate, openai, customer_id, question)) as texts:
                async for text in texts:
                    print(text, end="", flush=True)
            print()
        except Denied as denied:
            print(denied)
            if denied.decision.unblock is not None:
                print(f"What would help: {denied.decision.unblock.message}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
