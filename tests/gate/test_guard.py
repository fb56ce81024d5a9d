"""Guarded functions, on a real Redis: what runs, what is debited, and what a caller gets."""

from __future__ import annotations

import asyncio

import pytest

from house import policy_of, quota
from spendgate import Denied, Gate, GateUnavailable
from spendgate.guard import guard
from spendgate.testing import FakeGate, FakeSyncGate

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def contract(house):
    """A customer with 1,000 tokens a day."""
    house.contract(policy_of(quota(1000)))
    return house


def left(house) -> int:
    return house.run(house.gate.snapshot("acme")).limits()[0].remaining


def last_event(house):
    return [record for record in house.records() if record.kind == "decision"][-1].event


async def first_of(stream, count):
    """The first items of a stream that is then closed, as when a client goes away."""
    items = []
    async for item in stream:
        items.append(item)
        if len(items) == count:
            break
    await stream.aclose()
    return items


def test_a_call_is_decided_and_debited_before_it_starts(contract):
    seen = []

    @contract.gate.guard(meter="tokens", quantity=600, customer="customer_id")
    async def answer(customer_id, question):
        seen.append((await contract.gate.snapshot(customer_id)).limits()[0].remaining)
        return question.upper()

    assert contract.run(answer("acme", "why")) == "WHY"
    with pytest.raises(Denied) as caught:
        contract.run(answer("acme", question="why"))
    assert seen == [400]
    assert caught.value.decision.unblock.short == 200
    assert left(contract) == 400
    assert answer.__name__ == "answer"


def test_the_event_is_read_from_the_arguments_by_name_and_by_callable(contract):
    @contract.gate.guard(
        customer=lambda call: call["request"]["customer"],
        meter="tokens",
        quantity="budget",
        metadata=("model", "agent_id"),
        event_id="key",
    )
    async def answer(request, key, *, budget=5, model="m-1", agent_id=None):
        return budget

    assert contract.run(answer({"customer": "acme"}, "e-1")) == 5
    event = last_event(contract)
    assert (event.event_id, event.quantities) == ("e-1", {"tokens": 5})
    assert event.metadata == {"model": "m-1", "agent_id": None}
    contract.run(answer({"customer": "acme"}, key="e-2", budget=7, model="m-2"))
    assert left(contract) == 988


def test_one_name_of_metadata_may_stand_alone(contract):
    @contract.gate.guard(customer="customer_id", meter="tokens", metadata="model")
    async def answer(customer_id, model="m-1"):
        return model

    contract.run(answer("acme"))
    assert last_event(contract).metadata == {"model": "m-1"}


def test_the_same_event_id_is_debited_once(contract):
    @contract.gate.guard(customer="customer_id", meter="tokens", quantity=10, event_id=lambda call: call["key"])
    async def answer(customer_id, key):
        return key

    assert [contract.run(answer("acme", "e-1")) for _ in range(3)] == ["e-1"] * 3
    assert left(contract) == 990


def test_several_meters_and_metadata_that_is_computed(contract):
    @contract.gate.guard(
        customer="customer_id",
        quantities=lambda call: {"tokens": call["tokens"], "runs": 1},
        metadata=lambda call: {"long": call["tokens"] > 100},
    )
    async def answer(customer_id, tokens):
        return tokens

    contract.run(answer("acme", 200))
    assert last_event(contract).quantities == {"tokens": 200, "runs": 1}
    assert last_event(contract).metadata == {"long": True}


def test_what_the_result_says_was_used_is_committed(contract):
    @contract.gate.guard(customer="customer_id", meter="tokens", quantity=900, used=lambda answer: answer["tokens"])
    async def answer(customer_id):
        held = (await contract.gate.snapshot(customer_id)).limits()[0].reserved
        return {"tokens": 120, "held": held}

    assert contract.run(answer("acme"))["held"] == 900
    assert left(contract) == 880


def test_a_call_that_raises_uses_nothing(contract):
    @contract.gate.guard(customer="customer_id", meter="tokens", quantity=900, used=len)
    async def answer(customer_id):
        raise LookupError(customer_id)

    with pytest.raises(LookupError):
        contract.run(answer("acme"))
    assert left(contract) == 1000
    assert contract.records()[-1].result.reason == "released"


def test_a_method_is_guarded_with_its_own_arguments(contract):
    class Agent:
        customer_id = "acme"

        @contract.gate.guard(customer=lambda call: call["self"].customer_id, meter="tokens", quantity="tokens")
        async def step(self, tokens):
            return tokens

    assert contract.run(Agent().step(30)) == 30
    assert left(contract) == 970


def streaming(house, gate=None, **more):
    """A guarded stream of ten items of 10 tokens, and what it saw of its own end."""
    ended = []

    @(gate or house.gate).guard(customer="customer_id", meter="tokens", quantity=500, used=len, **more)
    async def words(customer_id):
        try:
            for number in range(10):
                yield f"{number:>10}"
        finally:
            ended.append(customer_id)

    return words, ended


def test_a_stream_commits_the_sum_of_its_items(contract):
    words, ended = streaming(contract)
    assert len(contract.run(first_of(words("acme"), 99))) == 10
    assert left(contract) == 900
    assert ended == ["acme"]


def test_items_that_say_nothing_of_use_count_nothing(contract):
    @contract.gate.guard(customer="customer_id", meter="tokens", quantity=500, used=lambda item: item.get("usage"))
    async def chunks(customer_id):
        yield {"text": "a"}
        yield {"text": "b"}
        yield {"usage": 12}

    contract.run(first_of(chunks("acme"), 99))
    assert left(contract) == 988


def test_a_stream_that_is_closed_early_commits_what_was_streamed(contract):
    words, ended = streaming(contract)
    assert len(contract.run(first_of(words("acme"), 3))) == 3
    assert left(contract) == 970
    assert ended == ["acme"]


def test_a_stream_whose_task_is_cancelled_commits_what_was_streamed(contract):
    words, ended = streaming(contract)

    async def cancelled():
        reached = asyncio.Event()

        async def consume():
            async for item in words("acme"):
                if item.strip() == "3":
                    reached.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(consume())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_asyncgens()

    contract.run(cancelled())
    assert left(contract) == 960
    assert ended == ["acme"]


def test_a_denied_stream_never_starts(contract):
    contract.decide(600)
    words, ended = streaming(contract)
    with pytest.raises(Denied):
        contract.run(first_of(words("acme"), 1))
    assert ended == []
    assert left(contract) == 400


def test_threads_guard_functions_and_generators(contract):
    @contract.sync.guard(customer="customer_id", meter="tokens", quantity=900, used=lambda text: {"tokens": len(text)})
    def answer(customer_id):
        return "four"

    @contract.sync.guard(customer="customer_id", meter="tokens", quantity=900, used=lambda _: 100)
    def words(customer_id):
        yield from "abc"

    @contract.sync.guard(customer="customer_id", meter="tokens", quantity=700)
    def plain(customer_id):
        return "ran"

    assert answer("acme") == "four"
    assert left(contract) == 996
    assert list(words("acme")) == ["a", "b", "c"]
    assert left(contract) == 696
    stream = words("acme")
    with pytest.raises(Denied):
        next(stream)
    with pytest.raises(Denied):
        plain("acme")


def test_a_generator_of_a_thread_that_is_closed_early_commits_what_it_gave(contract):
    @contract.sync.guard(customer="customer_id", meter="tokens", quantity=900, used=len)
    def words(customer_id):
        yield "four"
        yield "fives"

    stream = words("acme")
    assert next(stream) == "four"
    stream.close()
    assert left(contract) == 996


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"customer": "tenant", "meter": "tokens"}, "no parameter 'tenant'.*it has customer_id, model"),
        ({"customer": "customer_id", "meter": "tokens", "quantity": "units"}, "no parameter 'units'"),
        ({"customer": "customer_id", "meter": "tokens", "metadata": "modle"}, "no parameter 'modle'"),
        ({"customer": "customer_id", "meter": "tokens", "event_id": "key"}, "no parameter 'key'"),
        ({"customer": "customer_id"}, "either meter or quantities"),
        ({"customer": "customer_id", "meter": "tokens", "quantities": {"runs": 1}}, "either meter or quantities"),
    ],
)
def test_a_guard_that_cannot_work_fails_where_it_is_written(terms, says):
    async def answer(customer_id, model):
        return customer_id

    with pytest.raises(TypeError, match=says):
        FakeGate(policy_of()).guard(**terms)(answer)


def test_each_gate_guards_its_own_kind_of_function():
    async def asynchronous(customer_id):
        return customer_id

    def threaded(customer_id):
        return customer_id

    with pytest.raises(TypeError, match="guard it by a SyncGate"):
        FakeGate(policy_of()).guard(customer="customer_id", meter="tokens")(threaded)
    with pytest.raises(TypeError, match="guard it by a Gate"):
        FakeSyncGate(policy_of()).guard(customer="customer_id", meter="tokens")(asynchronous)


def test_a_gate_may_be_made_after_the_functions_that_it_guards(contract):
    made = {}

    @guard(lambda: made["gate"], customer="customer_id", meter="tokens", quantity=10)
    async def answer(customer_id):
        return "ran"

    made["gate"] = contract.gate
    assert contract.run(answer("acme")) == "ran"
    assert left(contract) == 990


@pytest.mark.parametrize("used", [None, len])
def test_without_redis_a_closed_guard_raises_and_an_open_one_runs(run, used, caplog):
    gate = Gate.from_url(NO_REDIS, timeout_seconds=0.5)
    ran = []

    async def answer(customer_id):
        ran.append(customer_id)
        return "text"

    terms = {"customer": "customer_id", "meter": "tokens", "used": used}
    with pytest.raises(GateUnavailable):
        run(gate.guard(**terms)(answer)("closed"))
    assert run(gate.guard(**terms, when_unavailable="open")(answer)("open")) == "text"
    assert ran == ["open"]
    assert "tokens of open passes unmetered" in caplog.text
    run(gate.aclose())


@pytest.mark.parametrize("kind", [FakeGate, FakeSyncGate])
def test_an_outage_during_an_open_call_does_not_cost_its_result(kind, caplog):
    gate = kind(policy_of(quota()))

    def answer(customer_id):
        gate.transport.down = True
        return "text"

    async def asynchronous(customer_id):
        return answer(customer_id)

    def result_of(when_unavailable):
        gate.transport.down = False
        terms = {"customer": "customer_id", "meter": "tokens", "used": len, "when_unavailable": when_unavailable}
        if kind is FakeGate:
            return asyncio.run(gate.guard(**terms)(asynchronous)("acme"))
        return gate.guard(**terms)(answer)("acme")

    assert result_of("open") == "text"
    assert "tokens of acme is not committed" in caplog.text
    with pytest.raises(GateUnavailable):
        result_of("closed")


def test_an_error_of_the_function_itself_is_never_taken_for_an_outage():
    gate = FakeGate(policy_of(quota()))

    @gate.guard(customer="customer_id", meter="tokens", used=len, when_unavailable="open")
    async def answer(customer_id):
        raise GateUnavailable("of another gate")

    with pytest.raises(GateUnavailable, match="of another gate"):
        asyncio.run(answer("acme"))
