"""A model provider on this machine, for the examples and their tests: no account, no key, no model.

It streams what OpenAI's chat completions and Anthropic's messages stream, event by event, so that the official clients
read it. It asks for a tool first when it is offered one, then answers. As with real providers, the usage that it
reports at the end is not what was streamed: thinking is counted and never shown.

    python examples/provider.py
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from addresses import PROVIDER_URL

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SENTENCE = "The sky is blue because the air scatters short waves of light more than long ones."
THINKING_TOKENS = 7
SECONDS_PER_TOKEN = 0.01
AT_LENGTH = 20
"""How many times it says so when it is asked to answer at length."""


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """`POST /v1/chat/completions` and `POST /v1/messages`, both streamed."""
    if scope["type"] != "http":
        return
    asked = json.loads(await _body(receive))
    streams = {"/v1/chat/completions": chat_completion, "/v1/messages": message}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    gone = asyncio.create_task(_gone(receive))
    async for event in streams[scope["path"]](asked):
        if gone.done():
            return
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await asyncio.sleep(SECONDS_PER_TOKEN)
    gone.cancel()
    await send({"type": "http.response.body", "body": b""})


async def chat_completion(asked: dict[str, Any]) -> AsyncIterator[str]:
    """OpenAI: chunks of one completion; with `stream_options.include_usage` a last one that has no choices, but the
    usage; and `[DONE]`."""
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": asked["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return f"data: {json.dumps(head | {'choices': [choice], 'usage': None})}\n\n"

    yield chunk({"role": "assistant", "content": "" if not _wants_tool(asked) else None, "refusal": None})
    if _wants_tool(asked):
        name = asked["tools"][0]["function"]["name"]
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [call]})
        parts = ['{"query":', ' "sky"}']
        for part in parts:
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield chunk({}, "tool_calls")
    else:
        parts = _words(asked, asked["max_completion_tokens"])
        for word in parts:
            yield chunk({"content": f"{word} "})
        yield chunk({}, "stop")
    if asked.get("stream_options", {}).get("include_usage"):
        prompt, completion = _prompt_tokens(asked), len(parts) + THINKING_TOKENS
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": THINKING_TOKENS, "audio_tokens": 0},
        }
        yield f"data: {json.dumps(head | {'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


async def message(asked: dict[str, Any]) -> AsyncIterator[str]:
    """Anthropic: the message begins with the input's usage, and its last delta has the output's."""

    def event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n"

    usage = {
        "input_tokens": _prompt_tokens(asked),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 1,
    }
    begun = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield event("message_start", message=begun)
    if _wants_tool(asked):
        block = {"type": "tool_use", "id": "toolu_1", "name": asked["tools"][0]["name"], "input": {}}
        kind, field, reason, parts = "input_json_delta", "partial_json", "tool_use", ['{"query":', ' "sky"}']
    else:
        block = {"type": "text", "text": ""}
        kind, field, reason = "text_delta", "text", "end_turn"
        parts = [f"{word} " for word in _words(asked, asked["max_tokens"])]
    yield event("content_block_start", index=0, content_block=block)
    yield event("ping")
    for part in parts:
        yield event("content_block_delta", index=0, delta={"type": kind, field: part})
    yield event("content_block_stop", index=0)
    ended = {"stop_reason": reason, "stop_sequence": None}
    yield event("message_delta", delta=ended, usage={"output_tokens": len(parts) + THINKING_TOKENS})
    yield event("message_stop")


def _wants_tool(asked: dict[str, Any]) -> bool:
    """It is offered one and was told no result yet."""
    last = asked["messages"][-1]
    told = last["role"] == "tool" or not isinstance(last["content"], str)
    return bool(asked.get("tools")) and not told


def _words(asked: dict[str, Any], most: int) -> list[str]:
    return (SENTENCE.split() * (AT_LENGTH if "at length" in json.dumps(asked["messages"]) else 1))[:most]


def _prompt_tokens(asked: dict[str, Any]) -> int:
    return len(json.dumps(asked["messages"]).split())


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    return body


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


if __name__ == "__main__":
    address = urlsplit(PROVIDER_URL)
    uvicorn.run(app, host=address.hostname or "127.0.0.1", port=address.port or 8600, lifespan="off")
