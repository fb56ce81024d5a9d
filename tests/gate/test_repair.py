"""Counters that hold what no reservation holds any more, broken on purpose in a real Redis, and put right."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from house import credits_limit, policy_of, quota
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import Concurrency, OpenCounter, PeriodCounter, WalletCounter, Weight
from spendgate.policy import ReservationTerms
from spendgate.state import Standing

TAG = tag_of(partition_of("acme"))
KEY = counters_key("acme")


def concurrency(most=2, **fields) -> Concurrency:
    return Concurrency(id="runs-open", meters=("tokens",), max=most, **fields)


def reserve(house, quantity=100, **fields):
    event = {"metadata": fields.pop("metadata", None), "event_id": fields.pop("event_id", None)}
    run = house.gate.reserve("acme", "tokens", quantity, **event, **fields)
    decision = house.run(house.gate.submit(run._event, mode="reserve", lifetime_seconds=run._lifetime_seconds))
    assert decision.allowed, decision.message
    return decision


def tried(house, quantity=1, **metadata):
    """Whether another reservation would fit."""
    run = house.gate.reserve("acme", "tokens", quantity, metadata=metadata)
    return house.run(house.gate.submit(run._event, mode="reserve", dry_run=True))


def repair(house):
    return house.run(house.control.repair_reserved("acme"))


def repaired(house) -> list[tuple[str, int, int]]:
    """Repair; limit, before and after of what was put right, as it is recorded."""
    compared = repair(house)
    found = [(each.limit_id, each.before, each.after) for each in house.records()[-1].repaired if each.limit_id]
    assert (compared.status, compared.counters) == ("repaired", len(found))
    return found


def broken(house, kind, name, key=KEY, **changes) -> None:
    """Overwrite a part of a stored counter."""
    raw = house.redis.hget(key, name)
    counter = kind.decode(raw) if raw is not None else kind()
    house.redis.hset(key, name, msgspec.structs.replace(counter, **changes).encode())


def everything(house) -> dict:
    """All that is stored of the customer, but for the outbox."""
    found = {}
    for key in sorted(house.redis.scan_iter(f"{TAG}*")):
        if key.endswith((b"outbox", b"meta", b"feed")):
            continue
        kind = house.redis.type(key)
        read = {b"hash": house.redis.hgetall, b"string": house.redis.get}
        found[key] = read[kind](key) if kind in read else house.redis.zrange(key, 0, -1, withscores=True)
    return found


def test_counters_that_add_up_are_left_alone(house):
    house.contract(policy_of(quota(1000), credits_limit(), concurrency()), granted_micro_credits=10**6)
    reserve(house, 100)
    done = reserve(house, 50)
    house.run(house.gate.commit(done.reservation_id, 20))
    before, records = everything(house), len(house.records())
    compared = repair(house)
    assert (compared.status, compared.open, compared.overdue, compared.counters) == ("agrees", 1, 0, 0)
    assert (everything(house), len(house.records())) == (before, records)


def test_a_quota_held_by_nobody_is_free_again(house):
    house.contract(policy_of(quota(1000)))
    reserve(house, 100)
    broken(house, PeriodCounter, "quota:tokens-day", reserved=1000)
    assert tried(house).reason == "quota_exceeded"
    assert (repair(house).status, repair(house).status) == ("repaired", "agrees")
    assert tried(house, 900).allowed
    assert not tried(house, 901).allowed, "the open one still holds its own"
    record = house.records()[-1]
    assert (record.kind, record.result.reason, record.result.limit_id) == ("repair", "repaired", "tokens-day")
    assert [(each.kind, each.limit_id, each.before, each.after) for each in record.repaired] == [
        ("quota", "tokens-day", 1000, 100)
    ]
    assert [each.unit_in(policy_of(quota(1000))) for each in record.repaired] == ["token"]
    assert [
        each.unit_in(policy_of(msgspec.structs.replace(credits_limit(), id="tokens-day"))) for each in record.repaired
    ] == ["unit"]


def test_open_reservations_that_are_not_counted_are_counted_again(house):
    """The other direction would let a customer spend what is held already."""
    house.contract(policy_of(quota(1000)))
    held = reserve(house, 900)
    broken(house, PeriodCounter, "quota:tokens-day", reserved=0)
    assert tried(house, 200).allowed
    assert repaired(house) == [("tokens-day", 0, 900)]
    assert not tried(house, 200).allowed
    house.run(house.gate.commit(held.reservation_id, 900))
    assert repair(house).status == "agrees"


def test_a_counter_that_is_gone_is_made_anew(house):
    house.contract(policy_of(quota(1000), concurrency()))
    reserve(house, 900)
    house.redis.hdel(KEY, "quota:tokens-day", "concurrency:runs-open")
    assert repaired(house) == [("runs-open", 0, 1), ("tokens-day", 0, 900)]
    assert not tried(house, 200).allowed
    assert repair(house).status == "agrees"


def test_places_taken_by_nobody_are_free_again(house):
    house.contract(policy_of(concurrency(2)))
    broken(house, OpenCounter, "concurrency:runs-open", open=2)
    assert tried(house).reason == "too_many_open"
    assert repaired(house) == [("runs-open", 2, 0)]
    assert tried(house).allowed


def test_credits_held_by_nobody_are_free_again(house):
    house.contract(policy_of(credits_limit()), granted_micro_credits=1000)
    reserve(house, 10)
    broken(house, WalletCounter, "credits:wallet", reserved=1000)
    assert tried(house).reason == "credits_exceeded"
    assert repaired(house) == [("wallet", 1000, 100)]
    assert tried(house, 90).allowed


@pytest.mark.parametrize("agent", ["a", ""])
def test_a_quota_of_one_value_is_repaired_for_that_value_alone(house, agent):
    metadata = {"agent": agent} if agent else {}
    house.contract(policy_of(quota(1000, per="agent", max_values=10)))
    reserve(house, 100, metadata=metadata)
    reserve(house, 300, metadata={"agent": "b"})
    (key,) = house.redis.keys(f"{TAG}per:quota:*")
    broken(house, PeriodCounter, agent, key=key, reserved=1000)
    assert tried(house, **metadata).reason == "quota_exceeded"
    assert repaired(house) == [("tokens-day", 1000, 100)]
    assert tried(house, 900, **metadata).allowed
    assert not tried(house, 701, agent="b").allowed
    assert [each.value for each in house.records()[-1].repaired] == [agent]


def test_places_of_one_value_are_repaired_and_a_value_without_any_is_dropped(house):
    house.contract(policy_of(concurrency(1, per="agent", max_values=2)))
    key = f"{TAG}per:concurrency:runs-open:0:acme"
    reserve(house, metadata={"agent": "a"})
    broken(house, OpenCounter, "b", key=key, open=1)
    assert tried(house, agent="c").reason == "too_many_values"
    assert repaired(house) == [("runs-open", 1, 0)]
    assert house.redis.hkeys(key) == [b"a"]
    assert tried(house, agent="b").allowed
    assert tried(house, agent="a").reason == "too_many_open"


def test_the_period_before_is_repaired_too(house):
    """A reservation counts in the period it began in, however long it lasts."""
    house.contract(policy_of(quota(1000)))
    reserve(house, 100)
    current = PeriodCounter.decode(house.redis.hget(KEY, "quota:tokens-day"))
    earlier = msgspec.structs.replace(current, period_start_seconds=current.period_start_seconds - 86_400, reserved=70)
    house.redis.hset(KEY, "<quota:tokens-day", earlier.encode())
    assert repaired(house) == [("tokens-day", 70, 0)]
    assert PeriodCounter.decode(house.redis.hget(KEY, "<quota:tokens-day")).reserved == 0
    assert PeriodCounter.decode(house.redis.hget(KEY, "quota:tokens-day")).reserved == 100


def test_what_is_held_follows_the_policy_it_was_held_under(house):
    """A limit that has other meters since, and one that is gone: their counters hold what they did."""
    house.contract(policy_of(quota(1000), concurrency()))
    held = reserve(house, 100)
    house.contract(policy_of(quota(1000, meters=("gpu",), per="agent", max_values=5)), version=2)
    assert repair(house).status == "agrees"
    broken(house, OpenCounter, "concurrency:runs-open", open=7)
    assert repaired(house) == [("runs-open", 7, 1)]
    (told,) = house.records()[-1].repaired
    assert told.unit_in(policy_of(concurrency())) == "run"
    assert told.unit_in(policy_of()) == "run", "no quota's unit, though it is gone"
    house.run(house.gate.release(held.reservation_id))
    assert repair(house).status == "agrees"


def test_reservations_that_redis_lost_hold_nothing(house):
    house.contract(policy_of(quota(1000), concurrency(1)))
    reserve(house, 1000)
    house.redis.delete(f"{TAG}reservations:acme", f"{TAG}ends:acme")
    assert not tried(house).allowed
    assert repaired(house) == [("runs-open", 1, 0), ("tokens-day", 1000, 0)]
    assert tried(house, 1000).allowed
    assert Standing.decode(house.redis.hget(KEY, "*")).reservations_end_us == 0


def test_an_end_that_was_lost_comes_back_so_that_the_reservation_ends(house):
    terms = ReservationTerms(grace_us=0)
    house.contract(policy_of(quota(1000), reservations=terms))
    decision = reserve(house, 1000, lifetime_seconds=60)
    house.redis.delete(f"{TAG}ends:acme")
    assert repair(house).status == "repaired"
    ends = house.redis.zrange(f"{TAG}ends:acme", 0, -1, withscores=True)
    assert ends == [(decision.event_id.encode(), decision.effective_at_us + 60_000_000)]
    assert repair(house).status == "agrees"


def test_an_end_of_no_reservation_goes(house):
    house.contract(policy_of(quota(1000)))
    house.redis.zadd(f"{TAG}ends:acme", {"ghost": 5})
    assert repair(house).status == "repaired"
    assert house.redis.zcard(f"{TAG}ends:acme") == 0


@pytest.mark.parametrize("lost", ["calendar", "standing"])
def test_the_sweep_comes_by_again_for_a_customer_it_had_forgotten(house, lost):
    house.contract(policy_of(quota(1000)))
    reserve(house, 1000, lifetime_seconds=60)
    first = house.redis.zscore(f"{TAG}changes", "acme")
    if lost == "standing":
        standing = Standing.decode(house.redis.hget(KEY, "*"))
        house.redis.hset(KEY, "*", msgspec.structs.replace(standing, reservations_end_us=0).encode())
    house.redis.zrem(f"{TAG}changes", "acme")
    assert (repair(house).status, repair(house).status) == ("repaired", "agrees")
    assert house.redis.zscore(f"{TAG}changes", "acme") == first
    assert Standing.decode(house.redis.hget(KEY, "*")).reservations_end_us == first


def test_live_reservations_are_never_repaired_whatever_races(house):
    """Every step of a reservation is one script, and so is the comparison: between two of them all adds up."""
    limits = (quota(10**9), credits_limit(), concurrency(1000), quota(10**9, id="of", per="agent", max_values=100))
    house.contract(policy_of(*limits), granted_micro_credits=10**12)

    async def worker(number):
        for turn in range(20):
            run = house.gate.reserve("acme", "tokens", 10 + turn, metadata={"agent": number % 3})
            async with run:
                await run.extend(30)
                run.add(number) if turn % 2 else run.release()

    async def comparing():
        return [await house.control.repair_reserved("acme") for _ in range(150)]

    async def all_at_once():
        results = await asyncio.gather(comparing(), *(worker(number) for number in range(8)))
        return results[0]

    compared = house.run(all_at_once())
    assert {each.status for each in compared} == {"agrees"}
    assert max(each.open for each in compared) > 1, "the race was one"
    assert [record for record in house.records() if record.kind == "repair"] == []


def test_a_repair_between_a_reservation_and_its_commit_changes_neither(house):
    house.contract(policy_of(quota(1000)))
    held = reserve(house, 100)
    broken(house, PeriodCounter, "quota:tokens-day", reserved=777)
    repair(house)
    house.run(house.gate.commit(held.reservation_id, 60))
    counter = PeriodCounter.decode(house.redis.hget(KEY, "quota:tokens-day"))
    assert (counter.used, counter.reserved) == (60, 0)


@pytest.mark.parametrize("bound", ["COMPARED_RESERVATIONS_MAX", "COMPARED_VALUES_MAX"])
def test_more_than_can_be_compared_in_one_step_is_said_and_left_alone(house, monkeypatch, bound):
    monkeypatch.setattr(f"spendgate.control.{bound}", 2)
    house.contract(policy_of(quota(1000), quota(1000, id="of", per="agent", max_values=10)))
    for number in range(3):
        reserve(house, 1, event_id=f"run-{number}", metadata={"agent": number})
    broken(house, PeriodCounter, "quota:tokens-day", reserved=500)
    before = everything(house)
    compared = repair(house)
    assert (compared.status, compared.open) == ("too_many", 3)
    assert everything(house) == before


def test_overdue_ones_are_counted(house):
    house.contract(policy_of(quota(1000)))
    reserve(house, 1, event_id="late")
    key = f"{TAG}reservations:acme"
    raw = house.redis.hget(key, "late")
    house.redis.hset(key, "late", raw[:18] + (1).to_bytes(7, "big") + raw[25:])
    house.redis.zadd(f"{TAG}ends:acme", {"late": 1 + 30_000_000})
    assert repair(house).overdue == 1


def test_what_costs_nothing_holds_nothing(house):
    """A wallet that was never charged has no counter, and needs none."""
    free = msgspec.structs.replace(credits_limit(), weights=(Weight("tokens", "*", 0),))
    house.contract(policy_of(free), granted_micro_credits=1000)
    reserve(house, 100)
    assert house.redis.hget(KEY, "credits:wallet") is None
    assert repair(house).status == "agrees"
