"""`decide()` is the definition; the script must equal it: same answers, same counters, same standing, same errors.

A state machine drives a real Redis and a model in memory with the same random history: events of every shape, time,
policy changes, grants, overrides, external usage. The script's clock is replaced, at its one place, by a time that
the test sets.
"""

from __future__ import annotations

import functools
import os

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from spendgate import script as scripts
from spendgate.client import IDEMPOTENCY_WINDOW_US, _decide_arguments, _decoded
from spendgate.decide import decide, refresh
from spendgate.errors import InvalidEvent
from spendgate.event import usage_event
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import Credits, PerEvent, Quota, Rate, Threshold, Weight, counter_field
from spendgate.limits.check import Context
from spendgate.limits.quota import QuotaCounter
from spendgate.policy import EffectivePolicy
from spendgate.record import agrees
from spendgate.script import Script
from spendgate.state import Override, OverrideSet, PolicyState, Standing
from spendgate.window import Window, calendar_window

STEPS_IN_ALL = int(os.environ.get("SPENDGATE_EQUIVALENCE_STEPS", "20000"))
STEPS_PER_HISTORY = 50
START_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000
METERS = {"runs": "run", "tokens": "token", "gpu": "second"}
MODES = st.sampled_from(["enforce", "shadow"])
DENIALS = st.sampled_from(["stop", "throttle"])
METER_SETS = st.sampled_from([("runs",), ("tokens",), ("tokens", "gpu")])
SMALL = st.one_of(st.integers(0, 40), st.integers(0, 2_000))
CLOCK = "local function clock_us()\n  local time = redis.call('TIME')"

BOUNDARIES = [START_US // 1_000_000 + days * 86_400 for days in (-2, 0, 1, 3, 4, 30)]
WINDOWS = st.sampled_from(
    [Window(length_seconds=3600), Window(length_seconds=18_000, anchor_seconds=7), calendar_window(BOUNDARIES)]
)


@st.composite
def quotas(draw, name):
    cap = draw(st.one_of(SMALL, SMALL, SMALL, st.just(9 * 10**15)))
    hard_cap = draw(st.sampled_from([cap, None, cap + 10]))
    thresholds = [Threshold("50%", -(-cap // 2)), Threshold("100%", cap)]
    if hard_cap != cap:
        thresholds.append(Threshold("overage", cap + 1))
    return Quota(
        id=name,
        meters=draw(METER_SETS),
        unit="token",
        period="window",
        window=draw(WINDOWS),
        cap=cap,
        hard_cap=hard_cap,
        floor=draw(st.sampled_from([0, 5])),
        thresholds=tuple(thresholds[: draw(st.integers(0, len(thresholds)))]),
        when_exceeded=draw(DENIALS),
        mode=draw(MODES),
    )


@st.composite
def wallets(draw, name):
    weights = draw(
        st.lists(
            st.builds(
                Weight,
                st.sampled_from(["tokens", "gpu"]),
                st.sampled_from(["*", "claude-*", "gpt-5"]),
                st.sampled_from([0, 1, 1, 7, 10**4, 9 * 10**15]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    return Credits(
        id=name,
        meters=tuple(sorted({weight.meter for weight in weights})),
        weights=tuple(weights),
        floor=draw(st.sampled_from([0, 5])),
        granted_when_unknown=draw(st.sampled_from([0, 60])),
        when_exceeded=draw(DENIALS),
        mode=draw(MODES),
    )


@st.composite
def rates(draw, name):
    return Rate(
        id=name,
        meters=draw(METER_SETS),
        unit="token",
        rate="some",
        units=draw(st.sampled_from([1, 3, 7, 1000])),
        per_us=draw(st.sampled_from([1, 7, 60_000, 60_000_000])),
        burst=draw(st.sampled_from([1, 10, 500, 3000])),
        when_exceeded=draw(DENIALS),
        mode=draw(MODES),
    )


@st.composite
def caps_per_event(draw, name):
    return PerEvent(
        id=name,
        meters=draw(METER_SETS),
        unit="token",
        max=draw(SMALL),
        field=draw(st.sampled_from([None, "context_window"])),
        when_exceeded=draw(DENIALS),
        mode=draw(MODES),
    )


@st.composite
def policies(draw):
    kinds = draw(st.lists(st.sampled_from([quotas, wallets, rates, caps_per_event]), max_size=5))
    return EffectivePolicy(
        document="test",
        plan="test",
        meters={
            meter: METERS[meter] for meter in draw(st.sampled_from([("tokens", "gpu", "runs")] * 4 + [("tokens",)]))
        },
        limits=tuple(draw(kind(f"limit-{index}")) for index, kind in enumerate(kinds)),
        models=draw(st.sampled_from([None, None, None, (), ("claude-*",), ("gpt-5", "claude-*")])),
        deny_unknown=draw(st.sampled_from([False, False, True])),
    )


QUANTITIES = st.one_of(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3000), st.just(10**12))
EVENTS = st.fixed_dictionaries(
    {
        "quantities": st.dictionaries(st.sampled_from(list(METERS)), QUANTITIES, min_size=1, max_size=3),
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "model": st.sampled_from(["claude-5", "gpt-5", "gpt", "", None, 7, True]),
                "context_window": st.one_of(
                    SMALL, SMALL, SMALL, st.sampled_from([0, 9 * 10**15, 12.0, 1.5, -1, "8", True, None])
                ),
            },
        ),
        "event_id": st.one_of(st.none(), st.sampled_from(["a", "b", "c"])),
    }
)
OVERRIDES = st.lists(
    st.builds(
        Override,
        id=st.sampled_from(["o1", "o2"]),
        kind=st.sampled_from(["let_pass", "let_pass", "stop"]),
        until_us=st.integers(START_US, START_US + 3 * DAY_US),
        max_units=st.sampled_from([0, 7, 100, 5000]),
        bypass=st.sampled_from([("*",), ("limit-0",), ("limit-0", "limit-1")]),
    ),
    max_size=2,
    unique_by=lambda override: override.id,
)


@functools.cache
def with_clock(script: Script) -> str:
    """The script, reading the time from a key instead of Redis's clock."""
    assert script.source.count(CLOCK) == 1
    return script.source.replace(
        CLOCK, "local function clock_us()\n  local time = redis.call('HMGET', 'clock', 's', 'us')"
    )


class Equivalence(RuleBasedStateMachine):
    client: redis.Redis
    loaded: dict[str, str]

    @initialize(policy=policies(), default=policies(), known=st.booleans())
    def install(self, policy, default, known):
        self.client.flushdb()
        self.now_us, self.version = START_US, 0
        self.customer = "acme"
        self.tag = tag_of(partition_of(self.customer))
        self.default, self.policy, self.state = default, default, None
        self.counters, self.overrides, self.standing = {}, (), Standing()
        self.allowed = {}
        self.client.hset(f"{self.tag}meta", mapping={"epoch": "1790000000000", "seq": "0", "mirrored_at_us": "5"})
        self.client.set(f"{self.tag}default", default.digest)
        self.client.set(f"{self.tag}policy:{default.digest}", default.encode())
        if known:
            self.contract(policy, "active", 10_000_000)

    def execute(self, script, *arguments):
        return self.evaluate(script, counters_key(self.customer), self.tag, self.customer, *arguments)

    def evaluate(self, script, key, *arguments):
        self.client.hset("clock", mapping={"s": self.now_us // 1_000_000, "us": self.now_us % 1_000_000})
        return self.client.evalsha(self.loaded[script.name], 1, key, *arguments)

    def derived(self):
        return refresh(self.policy, self.state, self.counters, self.overrides, self.now_us, standing=self.standing)

    @rule(microseconds=st.one_of(st.integers(0, 10**7), st.integers(-(10**10), 2 * DAY_US)))
    def time_passes(self, microseconds):
        self.now_us = max(START_US - DAY_US, self.now_us + microseconds)

    @rule(
        policy=policies(),
        status=st.sampled_from(["active", "active", "active", "suspended", "cancelled", "unknown"]),
        granted=st.sampled_from([None, 0, 50, 50, 10_000_000, 9 * 10**15]),
    )
    def contract(self, policy, status, granted):
        self.version += 1
        state = PolicyState(policy.digest, "test", status, self.version, "test", self.now_us, granted)
        encoded = msgspec.msgpack.encode(state)
        assert self.execute(scripts.PUT_STATE, encoded, policy.digest, policy.encode(), "") == 1
        assert self.execute(scripts.PUT_STATE, encoded, policy.digest, policy.encode(), "") == 0
        self.state = state
        self.policy = self.default if status == "unknown" else policy
        version = self.standing.version
        self.standing = self.derived()
        if self.standing.version == version:
            self.standing = msgspec.structs.replace(self.standing, version=version + 1)

    @rule(overrides=OVERRIDES)
    def override(self, overrides):
        self.version += 1
        encoded = msgspec.msgpack.encode(OverrideSet(self.version, tuple(overrides)))
        assert self.execute(scripts.PUT_OVERRIDES, encoded, self.version) == 1
        self.overrides = tuple(overrides)
        version = self.standing.version
        self.standing = self.derived()
        if self.standing.version == version:
            self.standing = msgspec.structs.replace(self.standing, version=version + 1)

    @rule(offset_us=st.sampled_from([-1, 0, 1, -1_000_000]), index=st.integers(0, 9))
    def time_comes_to_an_edge(self, offset_us, index):
        """Where comparisons go wrong: the instant a period, a throttling or an override ends, and its neighbours."""
        edges = [override.until_us for override in self.overrides]
        edges += [self.standing.next_change_at_us, self.standing.throttled_until_us]
        for limit in self.policy.limits:
            period = limit.window.period_at(self.now_us) if isinstance(limit, Quota) else None
            edges += [period[1] * 1_000_000] if period else []
            stored = self.counters.get(counter_field(limit))
            if isinstance(limit, Rate) and stored:
                edges.append(stored[0] + stored[1] // limit.units)
        edge_us = edges[index % len(edges)]
        if edge_us:
            self.now_us = edge_us + offset_us

    @rule(
        index=st.integers(0, 4),
        offset=st.sampled_from([-6, -5, -1, 0, 0, 1]),
        mode=st.sampled_from(["decide"] * 4 + ["record"]),
    )
    def ask_for_what_is_left(self, index, offset, mode):
        """Events that just fit, or just do not."""
        if not self.policy.limits:
            return
        limit = self.policy.limits[index % len(self.policy.limits)]
        nothing = usage_event(self.customer, limit.meters[0], 1)
        nothing = msgspec.structs.replace(nothing, quantities={})
        granted = self.state.granted_micro_credits if self.state is not None else None
        line = limit.check(nothing, self.counters.get(counter_field(limit)), Context(self.now_us, granted)).result
        left = line.remaining if line.remaining is not None else line.limit or 0
        for threshold in getattr(limit, "thresholds", ()):
            if threshold.at > line.used + line.external and index % 2:
                left = threshold.at - line.used - line.external
        left += offset
        if isinstance(limit, PerEvent) and limit.field:
            given = {"quantities": {limit.meters[0]: 1}, "metadata": {limit.field: max(0, left)}}
        elif 1 <= left <= 10**12:
            given = {"quantities": {limit.meters[0]: left}}
        else:
            return
        self.submit(usage_event(self.customer, **given), mode, dry_run=False)

    @rule(
        given=EVENTS,
        mode=st.sampled_from(["decide", "decide", "decide", "record"]),
        dry_run=st.sampled_from([False, False, False, True]),
    )
    def ask_for_anything(self, given, mode, dry_run):
        self.submit(usage_event(self.customer, **given), mode, dry_run=dry_run)

    def submit(self, event, mode, *, dry_run):
        before = self.client.hgetall(counters_key(self.customer))
        length = self.client.xlen(f"{self.tag}outbox")
        try:
            expected = decide(
                self.policy,
                self.state,
                self.counters,
                self.overrides,
                event,
                self.now_us,
                standing=self.standing,
                mode=mode,
            )
        except InvalidEvent as exc:
            expected = exc
        arguments = _decide_arguments(event, mode, dry_run=dry_run)[2:]
        reply = self.execute(scripts.DECIDE, *arguments)

        remembered = None if dry_run else self.remembered(event)
        if remembered is not None and not (
            isinstance(expected, InvalidEvent) and "a meter of the policy" in expected.expected
        ):
            self.check_memory(reply, event, remembered, before, length)
            return
        if isinstance(expected, InvalidEvent):
            assert reply[0] == b"error", (reply, expected)
            error = None
            try:
                _decoded(reply, event, self.customer)
            except InvalidEvent as exc:
                error = exc
            assert error is not None
            assert (
                (error.field, error.expected) == (expected.field, expected.expected)
                or "counter" in str(error)
                or (error.field.startswith("quantit"))
            )
            assert self.client.hgetall(counters_key(self.customer)) == before
            return
        record = _decoded(reply, event, self.customer)
        result = record.result
        assert (result.outcome, result.reason) == (expected.outcome, expected.reason)
        assert (result.limit_id or None, result.override_id or None) == (expected.limit_id, expected.override_id)
        assert result.crossed == expected.crossed
        assert result.state_after == expected.standing.state
        assert agrees(record, self.policy)
        if dry_run:
            assert self.client.hgetall(counters_key(self.customer)) == before
            assert self.client.xlen(f"{self.tag}outbox") == length
            return
        self.counters |= {name: _plain(value) for name, value in expected.counters.items()}
        self.standing = expected.standing
        if expected.outcome == "allow":
            generation = self.now_us // IDEMPOTENCY_WINDOW_US
            self.allowed[event.event_id, generation] = (event.fingerprint(), reply[1])
        self.check_counters()

    def remembered(self, event):
        """What the script must still know: the same generation or the one before. Each has a memory of its own, as a
        clock that went back shows."""
        generation = self.now_us // IDEMPOTENCY_WINDOW_US
        known = self.allowed.get((event.event_id, generation))
        return known or self.allowed.get((event.event_id, generation - 1))

    def check_memory(self, reply, event, remembered, before, length):
        fingerprint, stream_id = remembered
        if fingerprint == event.fingerprint():
            assert reply[0] == b"duplicate"
            assert reply[1] == stream_id
        else:
            assert reply[:2] == [b"error", b"conflict"]
        assert self.client.hgetall(counters_key(self.customer)) == before
        assert self.client.xlen(f"{self.tag}outbox") == length

    def check_counters(self):
        stored = self.client.hgetall(counters_key(self.customer))
        standing = msgspec.msgpack.decode(stored.pop(b"*"), type=Standing)
        assert msgspec.structs.replace(standing, denials=()) == msgspec.structs.replace(self.standing, denials=())
        decoded = {name.decode(): msgspec.msgpack.decode(value) for name, value in stored.items()}
        assert decoded == self.counters

    @rule(index=st.integers(0, 4), amount=SMALL, requested=st.integers(1, 100))
    def external(self, index, amount, requested):
        limit = next((limit for limit in self.policy.limits if limit.id == f"limit-{index}"), None)
        if not isinstance(limit, Quota | Credits):
            return
        stored = self.counters.get(counter_field(limit))
        if isinstance(limit, Quota):
            counter, period = limit.counter_at(stored, self.now_us)
            start = period[0] if period else None
        else:
            counter, start = msgspec.convert(stored or [], QuotaCounter), 0
        reply = self.execute(scripts.PUT_EXTERNAL, limit.id, start if start is not None else -1, amount, requested)
        if start is None or counter.external_at_us >= requested:
            assert reply == 0
            return
        if isinstance(reply, list):
            assert reply[1] == b"counter_full"
            return
        assert reply == 1
        thresholds = limit.thresholds if isinstance(limit, Quota) else ()
        fired = tuple(
            threshold.name
            for threshold in thresholds
            if counter.used + amount >= threshold.at and threshold.name not in counter.fired
        )
        after = msgspec.structs.replace(counter, external=amount, external_at_us=requested, fired=counter.fired + fired)
        self.counters[counter_field(limit)] = _plain(after)
        self.standing = self.derived()
        self.check_counters()

    @rule()
    def sweep(self):
        due = 0 < self.standing.next_change_at_us <= self.now_us
        self.evaluate(scripts.SWEEP, f"{self.tag}meta", self.tag, 100)
        if due:
            self.standing = self.derived()
            self.check_counters()


@pytest.mark.timeout(600)
def test_the_script_equals_decide(redis_server):
    with redis.Redis.from_url(redis_server, db=1) as client:
        Equivalence.client = client
        used = (scripts.DECIDE, scripts.PUT_STATE, scripts.PUT_OVERRIDES, scripts.PUT_EXTERNAL, scripts.SWEEP)
        Equivalence.loaded = {script.name: client.script_load(with_clock(script)) for script in used}
        run_state_machine_as_test(
            Equivalence,
            settings=settings(
                max_examples=max(1, STEPS_IN_ALL // STEPS_PER_HISTORY),
                stateful_step_count=STEPS_PER_HISTORY,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )


def _plain(counter):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(counter))
