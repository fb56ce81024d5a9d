"""The examples, with the real clients of both providers: what they say, and what is committed when it goes wrong."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import aclosing, asynccontextmanager

import anthropic
import httpx
import openai
import pytest

import anthropic_agent
import chat_app
import openai_agent
import provider
from house import DAY, House, state_of
from serving import serve
from spendgate import Denied, Gate
from spendgate.limits import Quota
from spendgate.policy import EffectivePolicy

METERS = {"ai_agent_run": "run", "tokens.input": "token", "tokens.output": "token"}
QUESTION = "Why is the sky blue?"
WORDS = len(provider.SENTENCE.split())
TOOL_PARTS = 2


@asynccontextmanager
async def openai_client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def anthropic_client(url):
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


AGENTS = {"openai": (openai_agent.answer, openai_client), "anthropic": (anthropic_agent.answer, anthropic_client)}


@pytest.fixture(scope="module")
def provider_url():
    with serve(provider.app) as url:
        yield url


@pytest.fixture
def contract(run, control, gate, redis_url):
    """Puts `acme` under daily caps of output tokens and runs."""
    house = House(run, control, gate, redis_url)

    def put(output=10_000, runs=100):
        policy = EffectivePolicy(
            "test", "starter", METERS, (_quota("tokens.output", output), _quota("ai_agent_run", runs))
        )
        run(control.put_state("acme", state_of(policy), policy))
        return house

    yield put
    house.close()


def _quota(meter, cap):
    return Quota(f"{meter}-day", (meter,), METERS[meter], "day", DAY, cap, cap)


def ended(house, mode="commit"):
    """What each reservation was ended with."""
    return [dict(r.reservation.committed) for r in house.records() if r.kind == "finish" and r.mode == mode]


def output_of_two_calls():
    return [TOOL_PARTS + provider.THINKING_TOKENS, WORDS + provider.THINKING_TOKENS]


@pytest.fixture(params=AGENTS)
def agent(request, provider_url, run, gate):
    """Runs one agent; the texts that came until it ended, or until `most` of them."""
    answer, client_of = AGENTS[request.param]

    async def ask(question=QUESTION, most=10_000, url=provider_url, **more):
        async with client_of(url) as client, aclosing(answer(gate, client, "acme", question, **more)) as texts:
            said = []
            async for text in texts:
                said.append(text)
                if len(said) == most:
                    break
            return said

    return lambda *arguments, **more: run(ask(*arguments, **more))


def test_what_the_provider_reports_is_committed_for_each_call(agent, contract):
    house = contract()
    assert "".join(agent()).strip() == provider.SENTENCE
    committed = ended(house)
    assert [each["tokens.output"] for each in committed] == output_of_two_calls()
    first, second = (each["tokens.input"] for each in committed)
    assert 0 < first < second, "the second prompt has the tool's result, too"
    assert house.run(house.gate.reservations("acme"))[1] == 0


def test_who_goes_away_in_the_middle_pays_what_was_streamed(agent, contract):
    house = contract()
    assert len(agent(most=5)) == 5
    broken_off = ended(house)[-1]
    assert broken_off["tokens.output"] == 5
    assert broken_off["tokens.input"] > 0
    assert house.run(house.gate.reservations("acme"))[1] == 0


def test_a_contract_without_room_for_a_call_denies_it_before_the_provider_is_asked(agent, contract):
    contract(output=999)
    with pytest.raises(Denied) as caught:
        agent(url="http://127.0.0.1:1")
    assert caught.value.decision.unblock.short == 1


def test_the_loop_ends_where_the_contract_does(agent, contract):
    house = contract(output=1_005)
    with pytest.raises(Denied):
        agent()
    assert [each["tokens.output"] for each in ended(house)] == output_of_two_calls()[:1]


def test_a_long_run_is_extended_while_it_streams(agent, contract):
    house = contract()
    seconds = itertools.count(0, 20)
    agent(clock=lambda: next(seconds))
    assert "extended" in {record.result.reason for record in house.records()}
    assert [each["tokens.output"] for each in ended(house)] == output_of_two_calls()


def test_a_provider_that_is_away_costs_nothing(agent, contract):
    house = contract()
    with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
        agent(url="http://127.0.0.1:1")
    assert ended(house) == []
    assert ended(house, "release") == [{}]


@pytest.fixture
def service(provider_url, redis_url):
    """The chat service, and an event that is set when it has served a request."""
    served = threading.Event()
    gate, client = Gate.from_url(redis_url, timeout_seconds=5), None

    async def app(scope, receive, send):
        nonlocal client
        if scope["type"] != "http":
            return
        client = client or openai.AsyncOpenAI(base_url=f"{provider_url}/v1", api_key="none", max_retries=0)
        try:
            await chat_app.create_app(gate, client)(scope, receive, send)
        finally:
            served.set()

    async def close():
        if client is not None:
            await client.close()

    with (
        serve(app, closing=[gate.aclose, close]) as url,
        httpx.Client(base_url=url, headers={"x-customer": "acme"}, timeout=20) as asking,
    ):
        yield asking, served


def test_the_service_streams_an_answer(service, contract):
    asking, _ = service
    house = contract()
    response = asking.post("/chat", content=QUESTION)
    assert (response.status_code, response.text.strip()) == (200, provider.SENTENCE)
    assert len(ended(house)) == 2


def test_a_client_that_disconnects_ends_the_agent_and_pays_what_was_streamed(service, contract):
    asking, served = service
    house = contract()
    with asking.stream("POST", "/chat", content=f"{QUESTION} Answer at length.") as response:
        next(response.iter_raw())
    assert served.wait(20)
    output = ended(house)[-1]["tokens.output"]
    assert 1 <= output < provider.AT_LENGTH * WORDS
    assert house.run(house.gate.reservations("acme"))[1] == 0


@pytest.mark.parametrize(("caps", "limit"), [({"runs": 0}, "ai_agent_run-day"), ({"output": 9}, "tokens.output-day")])
def test_the_service_answers_a_denial_of_the_run_or_of_its_tokens(service, contract, caps, limit):
    asking, _ = service
    contract(**caps)
    response = asking.post("/chat", content=QUESTION)
    assert (response.status_code, response.headers["content-type"]) == (402, "application/problem+json")
    assert response.json()["limit_id"] == limit


def test_the_service_does_nothing_for_nobody(service, contract):
    asking, _ = service
    contract()
    assert asking.post("/chat", content=QUESTION, headers={"x-customer": ""}).status_code == 403


def test_the_provider_speaks_both_languages_to_the_letter(provider_url):
    """What the clients above read leniently: the frames, and where the usage is."""
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_completion_tokens": 9,
        "stream": True,
    }
    with httpx.Client(base_url=provider_url, timeout=20) as client:
        plain = client.post("/v1/chat/completions", json=asked).text
        told = client.post("/v1/chat/completions", json=asked | {"stream_options": {"include_usage": True}}).text
        message = client.post("/v1/messages", json=asked | {"max_tokens": 9}).text
    assert told.endswith("\n\ndata: [DONE]\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in told.split("\n\n")[:-2]]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 9 + provider.THINKING_TOKENS)
    assert {chunk["usage"] for chunk in chunks[:-1]} == {None}
    assert "completion_tokens" not in plain
    kinds = [frame.split("\n")[0].removeprefix("event: ") for frame in message.split("\n\n")[:-1]]
    deltas = ["content_block_delta"] * 9
    assert kinds == [
        "message_start",
        "content_block_start",
        "ping",
        *deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
