"""An agent loop over Anthropic's streamed messages: each call of the model runs under a reservation.

The same as openai_agent.py, but for what the provider tells when: Anthropic reports the input's tokens with the first
event, so that even a call that is broken off commits them exactly.

    python examples/anthropic_agent.py acme "Why is the sky blue?"
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam, Usage

from addresses import PROVIDER_URL, REDIS_URL
from renewal import Renewal
from spendgate import Denied, Gate

MODEL = "claude-haiku-4-5"
MAX_OUTPUT_TOKENS = 1_000
LIFETIME_SECONDS = 60
CHARACTERS_PER_TOKEN = 4

TOOLS: list[ToolParam] = [
    {
        "name": "look_up",
        "description": "Look something up.",
        "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    }
]


async def answer(
    gate: Gate, anthropic: AsyncAnthropic, customer_id: str, question: str, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[str, None]:
    """The agent's answer as it comes. Raises Denied when the next call of the model does not fit the contract."""
    messages: list[MessageParam] = [{"role": "user", "content": question}]
    while True:
        calls: dict[int, dict[str, str]] = {}
        async with aclosing(_said(gate, anthropic, customer_id, messages, calls, clock)) as texts:
            async for text in texts:
                yield text
        if not calls:
            return
        messages += _results(calls)


async def _said(
    gate: Gate,
    anthropic: AsyncAnthropic,
    customer_id: str,
    messages: list[MessageParam],
    calls: dict[int, dict[str, str]],
    clock: Callable[[], float],
) -> AsyncGenerator[str, None]:
    """One call of the model: its text as it comes; the tools that it wants are put into `calls`."""
    async with gate.reserve(
        customer_id,
        quantities={
            "tokens.input": len(json.dumps(messages)) // CHARACTERS_PER_TOKEN + 1,
            "tokens.output": MAX_OUTPUT_TOKENS,
        },
        metadata={"model": MODEL},
        lifetime_seconds=LIFETIME_SECONDS,
    ) as run:
        stream = await anthropic.messages.create(
            model=MODEL, messages=messages, tools=TOOLS, max_tokens=MAX_OUTPUT_TOKENS, stream=True
        )
        renewal = Renewal(run, LIFETIME_SECONDS, clock)
        input_tokens = 0
        async with stream:
            async for event in stream:
                await renewal.renew()
                if event.type == "message_start":
                    input_tokens = _input_tokens(event.message.usage)
                    run.add(input_tokens, "tokens.input")
                elif event.type == "content_block_start" and event.content_block.type == "tool_use":
                    block = event.content_block
                    calls[event.index] = {"id": block.id, "name": block.name, "arguments": ""}
                elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                    calls[event.index]["arguments"] += event.delta.partial_json
                elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                    run.add(1, "tokens.output")  # a delta is a token or a few, until the last event says how many
                    yield event.delta.text
                elif event.type == "message_delta":  # its usage is of the whole message: the truth instead of our count
                    used = {"tokens.input": input_tokens, "tokens.output": event.usage.output_tokens}
                    run.commit(quantities=used)


def _input_tokens(usage: Usage) -> int:
    """All of the prompt. What was cached has another price, but it is input."""
    return usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)


def _results(calls: dict[int, dict[str, str]]) -> list[MessageParam]:
    """What the model asked for, and what the tools found."""
    asked: list[Any] = []
    found: list[Any] = []
    for call in calls.values():
        arguments = json.loads(call["arguments"] or "{}")
        asked.append({"type": "tool_use", "id": call["id"], "name": call["name"], "input": arguments})
        found.append({"type": "tool_result", "tool_use_id": call["id"], "content": f"found: {arguments['query']}"})
    return [{"role": "assistant", "content": asked}, {"role": "user", "content": found}]


async def main(customer_id: str, question: str) -> None:
    async with (
        Gate.from_url(REDIS_URL) as gate,
        AsyncAnthropic(base_url=PROVIDER_URL, api_key="none") as anthropic,
    ):
        try:
            async with aclosing(answer(gate, anthropic, customer_id, question)) as texts:
                async for text in texts:
                    print(text, end="", flush=True)
            print()
        except Denied as denied:
            print(denied)
            if denied.decision.unblock is not None:
                print(f"What would help: {denied.decision.unblock.message}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
