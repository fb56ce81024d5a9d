"""The script must equal its definition: same answers, same records, same counters, same errors.

A state machine gives the same random history to a real Redis and to `MemoryRedis`, which is built on `decide` and
`finish`: events of every shape, reservations and their ends, time that jumps back and forth, policy changes, grants,
overrides, external usage, a stale mirror, generations of memory, loss of open reservations. The scripts' clock is replaced,
at its one place, by a time that the test sets.
"""

from __future__ import annotations

import os

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import strategies as made
from redis_servers import SERVER_NAMES, find_redis_servers, start_redis, stop
from requirements import require
from spendgate import script as scripts
from spendgate.calls import decide_arguments, finish_arguments, settle_arguments
from spendgate.control import FIRST_GENERATION
from spendgate.correction import Correction
from spendgate.corrector import Original, correct_arguments
from spendgate.decide import context_of
from spendgate.event import usage_event
from spendgate.keys import counters_key, partition_of, tag_of
from spendgate.limits import NOT_KEPT, PerEvent, Quota, Rate, RateCounter, counter_field
from spendgate.limits.layout import pack_integers
from spendgate.policy import EffectivePolicy
from spendgate.record import agrees, decode_record
from spendgate.reservation import Facts
from spendgate.script import Script, load_scripts
from spendgate.state import SOURCES, OverrideSet, PolicyState, Standing
from spendgate.testing import PLAYS, MemoryRedis
from spendgate.testing.memory import EPOCH
from spendgate.token import ReservationToken
from transport_scripts import has_functions

STEPS_IN_ALL = int(os.environ.get("SPENDGATE_EQUIVALENCE_STEPS", "50000"))
STEPS_PER_HISTORY = 50
CLOCK = "local time = call('TIME')"
CUSTOMER = "acme"
KEY = counters_key(CUSTOMER)
TAG = tag_of(partition_of(CUSTOMER))
TOLD = load_scripts(lambda text: text.replace(CLOCK, "local time = call('HMGET', 'clock', 's', 'us')"))
"""The scripts, reading the time from a key instead of Redis's clock."""
assert all(script.source.count(CLOCK) == 1 for script in (scripts.DECIDE, scripts.SWEEP))


class Equivalence(RuleBasedStateMachine):
    """`policies` are those that were ever in force; `tokens` are reservations that were ever given."""

    client: redis.Redis
    as_functions: bool

    @initialize(policy=made.policies(), default=made.policies(), known=st.booleans())
    def install(self, policy, default, known):
        self.client.flushdb()
        self.now_us, self.version, self.generation, self.sequence = made.START_US, 0, 1, 0
        self.model = MemoryRedis(lambda: self.now_us, PLAYS)
        self.tokens: list[ReservationToken] = []
        self.right: dict[tuple[str, str], int] = {}
        self.policies: list[EffectivePolicy] = []
        meta = {"epoch": EPOCH, "seq": 0, "full_at": 10**9, "generation": FIRST_GENERATION}
        self.client.hset(f"{TAG}meta", mapping=meta)
        self.client.hset(f"{TAG}meta", "generation_at_us", self.now_us)
        self.client.mset(
            {
                f"{TAG}policy:{default.digest}": default.encode(),
                f"{TAG}rules:{default.digest}": default.rules(),
                f"{TAG}default": default.digest,
            }
        )
        self.model.default, self.model.policies[default.digest] = default.digest, default.encode()
        self.default = default
        if known:
            self.contract(policy, "active", None, ())

    @property
    def customer(self):
        return self.model.look_up(CUSTOMER)

    @property
    def policy(self):
        return self.model.policy_in_force(self.customer)[0]

    def execute(self, script: Script, *arguments, key=KEY):
        """Both play the script; they must answer the same and be left the same."""
        self.client.hset("clock", mapping={"s": self.now_us // 1_000_000, "us": self.now_us % 1_000_000})
        given = [TAG, *arguments] if script is scripts.SWEEP else [TAG, CUSTOMER, *arguments]
        told = TOLD[script.name]
        how = ("FCALL", told.function) if self.as_functions else ("EVALSHA", told.sha)
        reply = self.client.execute_command(*how, 1, key, *given)
        expected = self.model.run(script, given)
        assert plain(reply) == plain(expected), f"{script.name}: {plain(reply)} is not {plain(expected)}"
        self.check_state()
        return reply

    def check_state(self):
        customer = self.customer
        stored = {name.decode(): raw for name, raw in self.client.hgetall(KEY).items()}
        standing = stored.pop("*", None)
        assert (Standing.decode(standing) if standing is not None else None) == customer.standing_stored
        expected = {field: counter.encode() for field, counter in customer.counters.items()}
        expected |= {f"<{field}": counter.encode() for field, counter in customer.before.items()}
        assert stored == expected
        entries = self.client.xrange(f"{TAG}outbox", min=f"({self.last_id()}")
        mine = self.model.outbox.get(TAG, [])[len(self.model.outbox.get(TAG, [])) - len(entries) :]
        assert [stream_id.decode() for stream_id, _ in entries] == [stream_id for stream_id, _ in mine]
        for (_, fields), (_, raw) in zip(entries, mine, strict=True):
            record = decode_record(fields[b"r"])
            assert record == decode_record(raw), f"{record} is not {decode_record(raw)}"
            assert agrees(record, self.policy_named(record.policy))
            self.seen_entries += 1
        assert self.client.zrange(f"{TAG}ends:{CUSTOMER}", 0, -1, withscores=True) == sorted(
            ((event_id.encode(), float(end_us)) for event_id, end_us in customer.ends.items()),
            key=lambda pair: (pair[1], pair[0]),
        )

    seen_entries = 0

    def last_id(self):
        return f"{EPOCH}-{self.seen_entries}" if self.seen_entries else "0-0"

    def policy_named(self, digest):
        return msgspec.msgpack.decode(self.model.policies[digest], type=EffectivePolicy)

    # Time and terms --------------------------------------------------------------------------------------------------

    @rule(microseconds=st.one_of(st.integers(0, 10**7), st.integers(-(10**10), 2 * made.DAY_US)))
    def time_passes(self, microseconds):
        self.now_us = max(made.START_US - made.DAY_US, self.now_us + microseconds)

    @rule(offset_us=st.sampled_from([-1, 0, 1, -1_000_000]), index=st.integers(0, 15))
    def time_comes_to_an_edge(self, offset_us, index):
        """Where comparisons go wrong: the instant at which something ends, and its neighbours."""
        standing = self.customer.standing
        edges = [standing.next_change_at_us, standing.throttled_until_us, standing.reservations_end_us]
        edges += [override.until_us for override in (self.customer.override_set or OverrideSet(0, ())).overrides]
        edges += [grant.expires_at_us for grant in (self.customer.state.grants if self.customer.state else ())]
        for limit in self.policy.limits:
            period = limit.window.period_at(self.now_us) if isinstance(limit, Quota) else None
            edges += [period[1] * 1_000_000, period[0] * 1_000_000] if period else []
            stored = self.customer.counters.get(counter_field(limit))
            if isinstance(limit, Rate) and stored:
                edges.append(stored.updated_us + stored.debt // limit.units)
        edge_us = edges[index % len(edges)]
        if edge_us:
            self.now_us = edge_us + offset_us

    @rule(
        policy=made.policies(),
        status=st.sampled_from(["active", "active", "active", "suspended", "cancelled", "unknown"]),
        granted=st.sampled_from([None, 0, 50, 50, 10_000_000, 9 * 10**15]),
        grants=made.GRANTS,
    )
    def contract(self, policy, status, granted, grants):
        self.version += 1
        source = self.customer.state.source if self.customer.state is not None else "test"
        state = PolicyState(policy.digest, "test", status, self.version, source, self.now_us, granted, {}, grants)
        arguments = (state.encode(), policy.digest, policy.encode(), policy.rules(), "")
        assert self.execute(scripts.PUT_STATE, *arguments) == 1
        assert self.execute(scripts.PUT_STATE, *arguments) == 1

    @precondition(lambda self: self.customer.state is not None)
    @rule(
        source=st.sampled_from(["mirror", *SOURCES]),
        version=st.integers(-1, 1),
        microseconds=st.integers(-1, 1),
        status=st.sampled_from(["active", "suspended"]),
    )
    def somebody_else_writes(self, source, version, microseconds, status):
        """Who read an older state, or speaks for another source."""
        stored = self.customer.state
        state = msgspec.structs.replace(
            stored,
            source=source,
            version=max(0, stored.version + version),
            updated_at_us=stored.updated_at_us + microseconds,
            status=status,
        )
        self.version = max(self.version, state.version)
        policy = self.policy_named(state.policy)
        written = self.execute(scripts.PUT_STATE, state.encode(), state.policy, policy.encode(), policy.rules(), "")
        assert written == (state.order >= stored.order)

    @precondition(lambda self: self.customer.state is not None)
    @rule(granted=st.integers(0, 200), grants=made.GRANTS)
    def credits_change(self, granted, grants):
        """The same policy, so that its counters meet other grants."""
        self.version += 1
        state = msgspec.structs.replace(
            self.customer.state, version=self.version, granted_micro_credits=granted, grants=grants
        )
        policy = self.policy_named(state.policy)
        assert self.execute(scripts.PUT_STATE, state.encode(), state.policy, policy.encode(), policy.rules(), "") == 1

    @rule(overrides=made.OVERRIDES)
    def override(self, overrides):
        self.version += 1
        encoded = OverrideSet(self.version, tuple(overrides)).encode()
        assert self.execute(scripts.PUT_OVERRIDES, encoded, self.version) == 1
        assert self.execute(scripts.PUT_OVERRIDES, encoded, self.version) == 0

    @rule(age_us=st.sampled_from([0, 60 * made.SECOND_US, 60 * made.SECOND_US + 1, made.DAY_US]))
    def mirror_compares(self, age_us):
        self.model.mirrored_at_us = self.now_us - age_us
        self.client.hset(f"{TAG}meta", "mirrored_at_us", self.model.mirrored_at_us)

    @rule(index=st.integers(0, 4), amount=made.SMALL, requested=st.integers(1, 100))
    def external(self, index, amount, requested):
        limit = next((limit for limit in self.policy.limits if limit.id == f"limit-{index}"), None)
        period = limit.window.period_at(self.now_us) if isinstance(limit, Quota) else (0, 0)
        start = period[0] if period is not None else -1
        self.execute(scripts.PUT_EXTERNAL, f"limit-{index}", start, amount, requested)

    @rule(tell=st.sampled_from(["", "1"]))
    def the_daemon_comes_by(self, tell):
        self.execute(scripts.SWEEP, 100, 10**15, key=f"{TAG}meta")
        if CUSTOMER in self.model.customers:
            self.execute(scripts.REFRESH, tell)

    @rule()
    def forget_a_generation(self):
        self.generation += 1
        self.model.generation = self.generation
        self.client.hset(f"{TAG}meta", "generation", pack_integers((4, 3, 3), (self.generation, 1024, 1024)))

    # Events ----------------------------------------------------------------------------------------------------------

    @rule(
        index=st.integers(0, 4),
        offset=st.sampled_from([-6, -5, -1, 0, 0, 1]),
        mode=st.sampled_from(["decide"] * 3 + ["reserve", "record"]),
        metadata=made.METADATA,
    )
    def ask_for_what_is_left(self, index, offset, mode, metadata):
        """Events that just fit, or just do not."""
        if not self.policy.limits:
            return
        limit = self.policy.limits[index % len(self.policy.limits)]
        nothing = msgspec.structs.replace(usage_event(CUSTOMER, limit.meters[0], 1), quantities={})
        counters = self.customer.find_counters(self.policy, None, self.now_us, self.now_us)
        stored = counters.get(counter_field(limit))
        line = limit.check(
            nothing, None if stored == NOT_KEPT else stored, context_of(self.customer.state, self.now_us)
        ).result
        left = line.remaining if line.remaining is not None else line.limit or 0
        for threshold in getattr(limit, "thresholds", ()):
            if threshold.at > line.used + line.external and index % 2:
                left = threshold.at - line.used - line.external
        mirrored_at_us, most_us = self.model.mirrored_at_us, self.policy.max_staleness_us
        if mirrored_at_us and most_us and self.now_us - mirrored_at_us > most_us and hasattr(limit, "outage_allowance"):
            let_through = getattr(stored, "stale_used", 0) if index % 2 else 0
            left = min(left, limit.outage_allowance - let_through)
        left += offset
        if isinstance(limit, PerEvent) and limit.field:
            given = {"quantities": {limit.meters[0]: 1}, "metadata": metadata | {limit.field: max(0, left)}}
        elif 1 <= left <= 10**12:
            given = {"quantities": {limit.meters[0]: left}, "metadata": metadata}
        else:
            return
        self.submit(usage_event(CUSTOMER, **given), mode, dry_run=False, lifetime_us=0)

    @rule(given=made.EVENTS, mode=st.sampled_from(["decide", "reserve"]))
    def ask(self, given, mode):
        self.submit(usage_event(CUSTOMER, **given), mode, dry_run=False, lifetime_us=0)

    @rule(given=made.EVENTS)
    def reserve(self, given):
        self.submit(usage_event(CUSTOMER, **given), "reserve", dry_run=False, lifetime_us=0)

    @rule(
        given=made.EVENTS,
        mode=st.sampled_from(["decide", "decide", "reserve", "record"]),
        dry_run=st.sampled_from([False, False, False, True]),
        lifetime_us=st.sampled_from([0, 0, 1, 3 * made.SECOND_US]),
    )
    def ask_for_anything(self, given, mode, dry_run, lifetime_us):
        self.submit(usage_event(CUSTOMER, **given), mode, dry_run=dry_run, lifetime_us=lifetime_us)

    @rule(given=made.EVENTS, mode=st.sampled_from(["decide", "reserve"]), times=st.integers(9, 13))
    def ask_again_and_again(self, given, mode, times):
        """Denials beyond ten a second are only counted."""
        for _ in range(times):
            self.submit(usage_event(CUSTOMER, **(given | {"event_id": None})), mode, dry_run=False, lifetime_us=0)

    def submit(self, event, mode, *, dry_run, lifetime_us):
        arguments = decide_arguments(event, mode, dry_run=dry_run, lifetime_us=lifetime_us)[2:]
        before, length = self.client.hgetall(KEY), self.client.xlen(f"{TAG}outbox")
        overdue = 0 < self.customer.standing.reservations_end_us <= self.now_us
        reply = self.execute(scripts.DECIDE, *arguments)
        if reply[0] in (b"error", b"duplicate", b"dry_run") and not overdue:
            assert self.client.hgetall(KEY) == before
            assert self.client.xlen(f"{TAG}outbox") == length
        if reply[0] == b"decided" and mode == "reserve" and reply[2] == 1:
            self.tokens.append(
                ReservationToken(
                    CUSTOMER, event.event_id, reply[1].decode(), self.now_us, event.quantities, event.metadata
                )
            )

    # Outages ---------------------------------------------------------------------------------------------------------

    @rule(
        given=made.EVENTS,
        ago_us=st.sampled_from([0, 1, made.SECOND_US, made.DAY_US]),
        policy=st.integers(0, 3),
        again=st.sampled_from([False, False, True]),
    )
    def settle(self, given, ago_us, policy, again):
        """What a process let pass by itself, under a policy that may have changed since."""
        event = usage_event(CUSTOMER, **given)
        digests = sorted(self.model.policies)
        self.sequence += 0 if again else 1
        arguments = settle_arguments(event, self.now_us - ago_us, digests[policy % len(digests)], "j", self.sequence)
        reply = self.execute(scripts.SETTLE, *arguments[2:])
        if reply[0] in (b"debited", b"known", b"conflict"):
            assert self.execute(scripts.SETTLE, *arguments[2:])[0] == b"settled"

    @rule(room=st.sampled_from([0, 1, 10**9]))
    def backlog(self, room):
        self.model.full_at = len(self.model.outbox.get(TAG, [])) + room
        self.client.hset(f"{TAG}meta", "full_at", self.model.full_at)

    # Corrections -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.outbox.get(TAG))
    @rule(
        index=st.integers(0, 30),
        share=st.sampled_from([0, 0, 0, 0.5, 1.5, 40]),
        read=st.sampled_from(["all", "all", "all", "nothing"]),
        again=st.booleans(),
    )
    def correct(self, index, share, read, again):
        """What was committed, a moment ago or periods ago, under a policy that may have changed since."""
        entries = self.model.outbox[TAG]
        stream_id, raw = entries[-1 - index % len(entries)]
        record = decode_record(raw)
        used = record.debited if record.mode != "correct" else {}
        if not used:
            return
        meter = sorted(used)[index % len(used)]
        before = self.right.get((stream_id, meter), used[meter])
        after = min(10**12, int(used[meter] * share))
        if after == before:
            return
        self.corrections += 1
        correction = Correction(f"c{self.corrections}", "d", "d", meter, before, after, "ops", "counted twice")
        facts = record.reservation
        effective_at_us = facts.effective_at_us if facts is not None else record.now_us
        original = Original(record.event, self.policy_named(record.policy), effective_at_us, stream_id)
        read_up_to = tuple(map(int, entries[-1][0].split("-"))) if read == "all" else (0, 0)
        arguments = correct_arguments(original, correction, read_up_to)
        reply = self.execute(scripts.CORRECT, *arguments)
        if reply[0] == b"corrected":
            self.right[stream_id, meter] = after
            if again:
                assert self.execute(scripts.CORRECT, *arguments)[0] == b"repeated"

    corrections = 0

    # Reservations ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tokens)
    @rule(
        index=st.integers(0, 7),
        action=st.sampled_from(["commit", "commit", "release", "extend"]),
        share=st.sampled_from([0, 0.5, 1, 1, 1.5]),
        other=st.one_of(st.none(), st.sampled_from(list(made.METERS))),
        by_us=st.sampled_from([1, made.SECOND_US, 600 * made.SECOND_US]),
    )
    def finish(self, index, action, share, other, by_us):
        token = self.tokens[-1 - index % len(self.tokens)]
        actual = {}
        if action == "commit":
            actual = {meter: min(10**12, int(quantity * share)) for meter, quantity in token.quantities.items()}
            actual |= {other: 3} if other is not None else {}
        self.execute(scripts.FINISH_RESERVATION, *finish_arguments(token, action, actual, by_us)[2:])

    @precondition(lambda self: self.tokens)
    @rule(index=st.integers(0, 3))
    def finish_twice(self, index):
        """A repeated end is told the same."""
        token = self.tokens[-1 - index % len(self.tokens)]
        arguments = finish_arguments(token, "release", {})[2:]
        first = self.execute(scripts.FINISH_RESERVATION, *arguments)
        if first[0] == b"ended":
            assert self.execute(scripts.FINISH_RESERVATION, *arguments)[:3] == [b"duplicate", *first[1:3]]

    @precondition(lambda self: self.customer.open)
    @rule()
    def redis_loses_its_reservations(self):
        """And begins a new epoch, as after a total loss; counters are what the rebuild made of them."""
        customer = self.customer
        self.model.epoch += 1
        self.client.hset(f"{TAG}meta", "epoch", self.model.epoch)
        self.client.delete(f"{TAG}reservations:{CUSTOMER}", f"{TAG}ends:{CUSTOMER}")
        customer.open.clear()
        customer.ends.clear()
        self.broken = True

    @rule()
    def compare_reserved(self):
        """Whatever happened: what counters hold adds up to the reservations that are open. Twice, there is nothing to do."""
        reply = self.execute(scripts.REPAIR_RESERVED, 1000, 1000)
        if not self.broken:
            assert reply[0] == b"agrees", decode_record(self.model.outbox[TAG][-1][1]).repaired
        assert self.execute(scripts.REPAIR_RESERVED, 1000, 1000)[0] == b"agrees"
        # Counters of values are found by the limits in force: those of another policy are compared when it is back.
        values = [counter for counters in self.customer.per.values() for counter in counters.values()]
        self.broken = self.broken and any(getattr(each, "reserved", getattr(each, "open", 0)) for each in values)

    @precondition(lambda self: self.customer.counters or self.customer.per or self.customer.open)
    @rule(index=st.integers(0, 20), reserved=made.SMALL, lost=st.sampled_from(["nothing", "value", "end", "calendar"]))
    def something_breaks(self, index, reserved, lost):
        """A counter, the end of a reservation, or the calendar of the sweep, in both alike."""
        customer, self.broken = self.customer, True
        fields = sorted(field for field, each in customer.counters.items() if not isinstance(each, RateCounter))
        if fields and lost == "nothing":
            field = fields[index % len(fields)]
            name = "open" if field.startswith("concurrency") else "reserved"
            counter = msgspec.structs.replace(customer.counters[field], **{name: reserved})
            customer.counters[field] = counter
            self.client.hset(KEY, field, counter.encode())
        values = sorted(
            (place, value) for place, each in customer.per.items() if "rate" not in place[0] for value in each
        )
        if values and lost == "value":
            (field, start), value = values[index % len(values)]
            counter = customer.per[field, start][value]
            name, reserved = ("open", reserved + 1) if field.startswith("concurrency") else ("reserved", reserved)
            counter = msgspec.structs.replace(counter, **{name: reserved})
            customer.per[field, start][value] = counter
            self.client.hset(f"{TAG}per:{field}:{start}:{CUSTOMER}", value, counter.encode())
        if customer.ends and lost == "end":
            event_id = sorted(customer.ends)[index % len(customer.ends)]
            del customer.ends[event_id]
            self.client.zrem(f"{TAG}ends:{CUSTOMER}", event_id)
        if lost == "calendar" and customer.standing_stored is not None:
            standing = msgspec.structs.replace(customer.standing, reservations_end_us=0)
            customer.standing_stored = standing
            self.client.hset(KEY, "*", standing.encode())
            if standing.due_at_us:
                self.client.zadd(f"{TAG}changes", {CUSTOMER: standing.due_at_us})
            else:
                self.client.zrem(f"{TAG}changes", CUSTOMER)

    broken = False

    @rule()
    def look(self):
        self.execute(scripts.RESERVED, 3)
        self.execute(scripts.SNAPSHOT)


def plain(reply):
    """An answer with its records decoded: Lua and Python pack the same numbers in other bytes."""
    if not isinstance(reply, list):
        return reply
    if reply[0] in (b"decided", b"coalesced", b"dry_run", b"snapshot") or (
        reply[0] == b"duplicate" and len(reply) == 6
    ):
        return [*reply[:4], decode_record(reply[4]), *reply[5:]]
    if reply[0] in (b"corrected", b"repeated"):
        return [*reply[:2], decode_record(reply[2])]
    if len(reply) == 4 and reply[0] in (b"ended", b"extended", b"duplicate"):
        return [*reply[:2], msgspec.msgpack.decode(reply[2], type=tuple[str, Facts]), reply[3]]
    return reply


@pytest.mark.timeout(1200)
def test_the_scripts_equal_their_definition(redis_server):
    with redis.Redis.from_url(redis_server) as client:
        hold_equal(redis_server, STEPS_IN_ALL, as_functions=has_functions(client))


@pytest.mark.parametrize("name", SERVER_NAMES)
@pytest.mark.timeout(600)
def test_so_they_do_on_every_redis(name, tmp_path):
    """A share of the same, on each server that the gate is for, in each way that it has."""
    servers = find_redis_servers()
    require(name, found=name in servers)
    process, url = start_redis(servers[name], tmp_path)
    try:
        with redis.Redis.from_url(url) as client:
            ways = (False, True) if has_functions(client) else (False,)
        for as_functions in ways:
            hold_equal(url, STEPS_IN_ALL // (25 * len(ways)), as_functions=as_functions)
    finally:
        stop(process)


def hold_equal(url, steps, *, as_functions):
    with redis.Redis.from_url(url, db=1) as client:
        Equivalence.client, Equivalence.as_functions = client, as_functions
        if as_functions:
            client.function_load(TOLD["decide"].library.source, replace=True)
        else:
            for script in TOLD.values():
                client.script_load(script.source)
        run_state_machine_as_test(
            Equivalence,
            settings=settings(
                max_examples=max(1, steps // STEPS_PER_HISTORY),
                stateful_step_count=STEPS_PER_HISTORY,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
