"""Whatever holds another type in the place of a key, or finds no memory: an error, and nothing is half written."""

from __future__ import annotations

import pytest
import redis

from house import credits_limit, policy_of, quota, rate, state_of
from redis_servers import SERVER_NAMES, find_redis_servers, start_redis, stop
from requirements import require
from spendgate import Gate, GateUnavailable, NotPrepared
from spendgate.calls import settle_arguments
from spendgate.control import Control
from spendgate.correction import Correction
from spendgate.corrector import Corrector, Original
from spendgate.errors import ScriptFailed, TooManyReservations
from spendgate.event import usage_event
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import Concurrency
from spendgate.record import decode_record
from spendgate.reservation import MAX_OPEN
from spendgate.script import SETTLE
from spendgate.state import Override

TAG = tag_of(partition_of("acme"))
NEIGHBOUR = next(f"acme-{n}" for n in range(10_000) if partition_of(f"acme-{n}") == partition_of("acme"))
"""Another customer of the same partition."""
POLICY = policy_of(
    quota(1000),
    quota(500, id="per-agent", per="agent", max_values=3, thresholds=()),
    credits_limit(),
    rate(),
    Concurrency(id="open", meters=("tokens",), max=5),
)
EVENT = {"quantities": {"tokens": 10}, "metadata": {"agent": "a"}}
KEYS = (
    *("counters:acme", "state:acme", "overrides:acme", "reservations:acme", "ends:acme", "meta", "outbox", "feed"),
    *("changes", "hints", "corrected:acme", "expiring", "default", "seen", "ended", "per", f"rules:{POLICY.digest}"),
)


@pytest.fixture
def reserved(house):
    """The house, with use of every kind and an open reservation."""
    assert house.contract(POLICY, granted_micro_credits=100_000)
    house.given = house.decide(10, event_id="first", metadata={"agent": "b"})
    decision = house.run(house.gate.submit(usage_event("acme", event_id="open", **EVENT), mode="reserve"))
    house.reservation_id = decision.reservation_id
    return house


def decide(house, **fields):
    return house.run(house.gate.decide("acme", event_id="second", **EVENT, **fields))


def deny(house):
    return house.run(house.gate.decide("acme", "tokens", 10**9, event_id="third"))


def reserve(house):
    return house.run(house.gate.submit(usage_event("acme", event_id="third", **EVENT), mode="reserve"))


def exhaust(house):
    """Changes the customer's state."""
    return house.run(house.gate.record("acme", "tokens", 1000, metadata={"agent": "c"}))


def contract(house):
    return house.contract(policy_of(quota(1)), version=2)


def override(house):
    return house.run(house.control.put_overrides("acme", [Override("o1", "stop", 9 * 10**15)], 1))


def read_external(house):
    start = house.redis.time()[0] // 86_400 * 86_400
    return house.run(house.control.put_external("acme", "tokens-day", start, 1000, 10))


def settle(house):
    arguments = settle_arguments(usage_event("acme", event_id="away", **EVENT), 1, POLICY.digest, "journal", 1)
    return house.run(house.control.run_for(SETTLE, "acme", arguments[2:]))


def correct(house):
    given = house.given
    correction = Correction("c", given.decision_id, given.decision_id, "tokens", 10, 0, "ops", "a double count")
    original = Original(given.event, POLICY, given.effective_at_us, given.stream_id)
    return house.run(Corrector(house.control).correct(original, correction, (2**48, 0)))


STEPS = {
    "decide": decide,
    "deny": deny,
    "reserve": reserve,
    "exhaust": exhaust,
    "ask for nobody": lambda house: house.run(house.gate.decide(NEIGHBOUR, "tokens", 1)),
    "commit": lambda house: house.run(house.gate.commit(house.reservation_id, 700)),
    "release": lambda house: house.run(house.gate.release(house.reservation_id)),
    "extend": lambda house: house.run(house.gate.extend(house.reservation_id, 600)),
    "settle": settle,
    "correct": correct,
    "contract": contract,
    "override": override,
    "read external use": read_external,
    "refresh": lambda house: house.run(house.control.refresh("acme", tell_flags=True)),
    "sweep": lambda house: house.run(house.control.sweep(partition_of("acme"))),
}


def everything(client):
    """All keys with what they hold. A stream's dump tells the entries as well as the last id."""
    return {key: client.dump(key) for key in client.keys("*")}


def names_of(house, key):
    """The Redis keys that a name of KEYS stands for."""
    if key in ("seen", "ended"):
        return [f"{TAG}{key}:{generation}:{number}" for generation in (0, 1) for number in range(1024)]
    if key == "per":
        start = house.redis.time()[0] // 86_400 * 86_400
        return [f"{TAG}per:quota:per-agent:{start}:acme"]
    return [f"{TAG}{key}"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_type_is_an_error_that_leaves_all_as_it_was(reserved, key):
    noticed = set()
    for step, run in STEPS.items():
        kept = everything(reserved.redis)
        with reserved.redis.pipeline() as pipe:
            for name in names_of(reserved, key):
                pipe.delete(name)
                pipe.rpush(name, "not what it should be")
            pipe.execute()
        broken = everything(reserved.redis)
        try:
            run(reserved)
        except (ScriptFailed, NotPrepared):
            noticed.add(step)
            assert everything(reserved.redis) == broken, f"{step} left something half done"
        reserved.redis.flushall()
        for name, dumped in kept.items():
            reserved.redis.restore(name, 0, dumped)
    assert noticed, "no step has to do with it"
    if key in ("counters:acme", "state:acme", "overrides:acme", "meta", "outbox"):
        expected = {"decide", "deny", "reserve", "exhaust", "commit", "release", "extend", "settle", "correct"}
        expected |= {"contract", "override"}
        assert noticed >= expected - ({"contract"} if key == "state:acme" else set())


def test_one_broken_customer_does_not_hold_up_the_sweep_of_others(reserved):
    """Both are due; the sweep resumes the sound one and still tells of the other."""
    assert reserved.contract(POLICY, customer=NEIGHBOUR, granted_micro_credits=100_000)
    reserved.redis.zadd(f"{TAG}changes", {"acme": 1, NEIGHBOUR: 2})
    reserved.redis.delete(counters_key("acme"))
    reserved.redis.rpush(counters_key("acme"), "not what it should be")
    with pytest.raises(ScriptFailed, match="WRONGTYPE"):
        STEPS["sweep"](reserved)
    assert reserved.redis.zscore(f"{TAG}changes", NEIGHBOUR) is None
    assert reserved.redis.zscore(f"{TAG}changes", "acme") == 1


def test_one_reservation_too_many_is_told(reserved):
    reserved.redis.hset(f"{TAG}reservations:acme", mapping={f"held-{n}": "" for n in range(MAX_OPEN)})
    with pytest.raises(TooManyReservations, match="100000"):
        reserve(reserved)


@pytest.fixture(params=SERVER_NAMES)
def small_server(request, tmp_path):
    """A Redis of its own, whose memory can be taken away."""
    servers = find_redis_servers()
    require(request.param, found=request.param in servers)
    process, url = start_redis(servers[request.param], tmp_path)
    yield url
    stop(process)


def test_without_memory_a_step_is_refused_whole_and_may_be_repeated(small_server, run):
    control, gate = Control.from_url(small_server), Gate.from_url(small_server, timeout_seconds=5)
    run(control.prepare())
    run(control.put_default(POLICY))
    run(control.put_state("acme", state_of(POLICY, granted_micro_credits=100_000), POLICY))
    given = usage_event("acme", event_id="open", **EVENT)
    token = run(gate.submit(given, mode="reserve")).reservation_id
    client = redis.Redis.from_url(small_server)
    steps = {
        "decide": lambda: gate.decide("acme", event_id="second", **EVENT),
        "reserve": lambda: gate.submit(usage_event("acme", event_id="third", **EVENT), mode="reserve"),
        "deny": lambda: gate.decide("acme", "tokens", 10**9),
        "commit": lambda: gate.commit(token, 20),
        "contract": lambda: control.put_state(
            "acme", state_of(POLICY, 2, "suspended", granted_micro_credits=100_000), POLICY
        ),
        "override": lambda: control.put_overrides("acme", [Override("o1", "stop", 9 * 10**15)], 1),
    }
    for name, step in steps.items():
        before = everything(client)
        client.config_set("maxmemory", 1)
        with pytest.raises(GateUnavailable, match="OOM") as refused:
            run(step())
        assert refused.value.executed == "no"
        assert run(gate.snapshot("acme")).known, "what only reads is answered"
        assert run(gate.reservations("acme"))[1] in (0, 1)
        client.config_set("maxmemory", 0)
        assert everything(client) == before, f"{name} left something half done"
    assert run(steps["decide"]()).allowed
    assert run(steps["decide"]()).duplicate
    assert run(steps["commit"]()).committed == {"tokens": 20}
    records = [decode_record(fields[b"r"]) for _, fields in client.xrange(f"{TAG}outbox")]
    debits = [dict(record.reservation.committed) for record in records if record.kind == "finish"]
    assert debits == [{"tokens": 20}]
    assert run(gate.snapshot("acme")).limits()[0].used == 30
    client.close()
    run(gate.aclose())
    run(control.aclose())
