"""Faults between the gate and Redis, and of Redis itself: a retry with the same id gives the same answer and one debit."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

import pytest
import redis

from clusters import running_sentinel, until
from house import DENY_UNKNOWN, House, policy_of, quota, state_of
from proxy import proxied
from redis_servers import find_redis_servers, stop
from requirements import require
from spendgate import Gate, GateUnavailable, SyncGate
from spendgate.control import Control
from spendgate.event import usage_event
from spendgate.testing import FakeGate, FakeSyncGate
from transport_scripts import FOREVER, forget_scripts

POLICY = policy_of(quota(1000))


def debits_of(records):
    """What the outbox says was debited and is held, unit by unit."""
    used, held = 0, {}
    for record in records:
        if record.kind == "decision" and record.result.outcome == "allow":
            if record.mode == "reserve":
                assert record.event.event_id not in held
                held[record.event.event_id] = record.event.units
            else:
                used += record.event.units
        elif record.kind == "finish" and record.mode != "extend":
            del held[record.event.event_id]
            used += sum(quantity for _, quantity in record.reservation.committed)
    return used, sum(held.values())


def check_consistent(house):
    line = house.run(house.gate.snapshot("acme")).limits()[0]
    assert (line.used, line.reserved) == debits_of(house.records())


class Caller:
    """One of both clients, behind a proxy."""

    def __init__(self, kind, url, run, timeout_seconds=5):
        self._run = run if kind == "asyncio" else lambda answer: answer
        self.gate = (Gate if kind == "asyncio" else SyncGate).from_url(url, timeout_seconds=timeout_seconds)

    def __getattr__(self, name):
        method = getattr(self.gate, name)
        return lambda *given, **named: self._run(method(*given, **named))

    def close(self):
        self._run(self.gate.aclose()) if isinstance(self.gate, Gate) else self.gate.close()


@pytest.fixture(params=["asyncio", "threads"])
def kind(request):
    return request.param


@pytest.fixture
def proxy(redis_url):
    with proxied(urlsplit(redis_url).port) as made:
        yield made


@pytest.fixture
def caller(kind, house, proxy, run):
    """It has been answered once, so that the next bytes are those of the step under test."""
    house.contract(POLICY)
    made = Caller(kind, f"redis://127.0.0.1:{proxy.port}/0", run)
    made.decide("acme", "tokens", 1)
    made.release(made.submit(usage_event("acme", "tokens", 1), mode="reserve").reservation_id)
    yield made
    made.close()


FAULTS = {
    "the reply is lost": lambda proxy: proxy.replies.drop_next(),
    "the reply is cut after its first bytes": lambda proxy: proxy.replies.cut_next(7),
    "the reply is cut in half": lambda proxy: proxy.replies.cut_next(60),
    "the request is lost": lambda proxy: proxy.requests.drop_next(),
    "the request is cut in half": lambda proxy: proxy.requests.cut_next(100),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_whose_answer_did_not_come_is_taken_once(fault, caller, house, proxy):
    reserved = usage_event("acme", "tokens", 100, event_id="run")
    held = {}

    def commit():
        return caller.commit(held["id"], 40)

    def reserve():
        decision = caller.submit(reserved, mode="reserve")
        held["id"] = decision.reservation_id
        return decision

    steps = [
        lambda: caller.decide("acme", "tokens", 10, event_id="one"),
        reserve,
        lambda: caller.extend(held["id"], 600),
        commit,
    ]
    for step in steps:
        FAULTS[fault](proxy)
        with pytest.raises(GateUnavailable) as caught:
            step()
        assert caught.value.executed == "unknown"
        answer, again = step(), step()
        assert getattr(answer, "allowed", True)
        if step is not steps[2]:
            assert again.duplicate
            assert answer.duplicate == ("reply" in fault)
        check_consistent(house)
    line = house.run(house.gate.snapshot("acme")).limits()[0]
    assert (line.used, line.reserved) == (1 + 10 + 40, 0)
    assert len([record for record in house.records() if record.event and record.event.event_id == "one"]) == 1


def test_a_denial_whose_answer_did_not_come_debits_nothing(caller, house, proxy):
    proxy.replies.drop_next()
    with pytest.raises(GateUnavailable):
        caller.decide("acme", "tokens", 5000, event_id="one")
    assert caller.decide("acme", "tokens", 5000, event_id="one").outcome == "stop"
    assert caller.decide("acme", "tokens", 50, event_id="one").allowed, "a denial is not remembered"
    check_consistent(house)


def test_a_connection_that_is_reset_while_many_wait(house, proxy, run):
    """Nobody's event is debited twice or lost, whoever was answered."""
    house.contract(POLICY)
    caller = Caller("threads", f"redis://127.0.0.1:{proxy.port}/0", run)
    answers = {}

    def ask(number):
        while number not in answers:
            try:
                answers[number] = caller.gate.decide("acme", "tokens", 1, event_id=f"event-{number}")
            except GateUnavailable:
                continue

    ask("warm")
    proxy.replies.hold()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    proxy.replies.wait_held()
    proxy.reset()
    proxy.replies.release()
    for thread in threads:
        thread.join(20)
    assert all(answer.allowed for answer in answers.values())
    assert house.run(house.gate.snapshot("acme")).limits()[0].used == 17
    check_consistent(house)
    caller.close()


def test_scripts_that_redis_forgot_are_sent_again(caller, house):
    forget_scripts(house.redis)
    assert caller.decide("acme", "tokens", 10, event_id="one").allowed
    forget_scripts(house.redis)
    assert caller.decide("acme", "tokens", 10, event_id="one").duplicate
    check_consistent(house)


def test_while_a_script_does_not_end_nothing_is_decided(caller, house, redis_url):
    """BUSY is an answer that says that nothing ran."""
    house.redis.config_set("busy-reply-threshold" if house.redis.config_get("busy-reply-*") else "lua-time-limit", 50)
    with redis.Redis.from_url(redis_url) as looping:

        def loop():
            with pytest.raises(redis.exceptions.ResponseError, match="killed"):
                looping.eval(FOREVER.source, 0)

        thread = threading.Thread(target=loop)
        thread.start()
        until(lambda: is_busy(house.redis))
        with pytest.raises(GateUnavailable, match="BUSY") as caught:
            caller.decide("acme", "tokens", 10, event_id="one")
        assert caught.value.executed == "no"
        house.redis.script_kill()
        thread.join(20)
    decision = caller.decide("acme", "tokens", 10, event_id="one")
    assert decision.allowed
    assert not decision.duplicate
    check_consistent(house)


def is_busy(client):
    try:
        client.ping()
    except redis.exceptions.BusyLoadingError:
        return False
    except redis.exceptions.ResponseError as fault:
        return "BUSY" in str(fault)
    return False


def test_what_waits_out_a_pause_is_debited_once(kind, house, redis_url, run):
    house.contract(POLICY)
    caller = Caller(kind, redis_url, run, timeout_seconds=0.3)
    caller.decide("acme", "tokens", 1)
    house.redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    with pytest.raises(GateUnavailable) as caught:
        caller.decide("acme", "tokens", 10, event_id="one")
    assert caught.value.executed == "unknown"
    house.redis.execute_command("CLIENT", "UNPAUSE")
    assert caller.decide("acme", "tokens", 10, event_id="one").allowed
    assert house.run(house.gate.snapshot("acme")).limits()[0].used == 11
    check_consistent(house)
    caller.close()


@pytest.mark.parametrize("mode", ["decide", "reserve"])
def test_where_only_the_reading_after_a_debit_fails_it_is_not_said_that_nothing_was_written(run, mode):
    def refuse(_key):
        raise GateUnavailable("it can't be reached", "no")

    async def refuse_later(_key):
        refuse(_key)

    event = usage_event("acme", "tokens", 10)
    gate, blocking = FakeGate(POLICY), FakeSyncGate(POLICY)
    gate.transport.get, blocking.transport.get = refuse_later, refuse
    for decide in (lambda: run(gate.submit(event, mode=mode)), lambda: blocking.submit(event, mode=mode)):
        with pytest.raises(GateUnavailable) as caught:
            decide()
        assert caught.value.executed == "unknown"
    assert [len(each.records("acme")) for each in (gate, blocking)] == [1, 1], "it was debited"


def test_after_a_failover_what_was_allowed_is_still_known(kind, run, tmp_path):
    servers = find_redis_servers()
    require("a redis-server or valkey-server", found=bool(servers))
    with running_sentinel(next(iter(servers.values())), tmp_path) as sentinels:
        control = Control.from_url(sentinels.url)
        run(control.prepare())
        run(control.put_default(DENY_UNKNOWN))
        run(control.put_state("acme", state_of(POLICY), POLICY))
        caller = Caller(kind, sentinels.url, run)
        first = caller.decide("acme", "tokens", 10, event_id="one")
        held = caller.submit(usage_event("acme", "tokens", 100, event_id="run"), mode="reserve").reservation_id
        with redis.Redis(port=sentinels.master) as master:
            assert master.wait(1, 20_000) == 1
        stop(sentinels.processes[sentinels.master])
        until(lambda: is_answered(caller))
        again = caller.decide("acme", "tokens", 10, event_id="one")
        assert (again.duplicate, again.decision_id) == (True, first.decision_id)
        assert caller.commit(held, 40).committed == {"tokens": 40}
        caller.close()
        run(control.aclose())
        url = f"redis://127.0.0.1:{sentinels.replica}/0"
        house = House(run, Control.from_url(url), Gate.from_url(url), url)
        check_consistent(house)
        run(house.gate.aclose())
        run(house.control.aclose())
        house.close()


def is_answered(caller):
    try:
        return caller.decide("acme", "tokens", 1, event_id="after").allowed
    except GateUnavailable:
        return False
