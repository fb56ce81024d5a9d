"""Random policies, events, overrides and terms, small enough that limits are reached and edges are hit."""

from __future__ import annotations

from hypothesis import strategies as st

from spendgate.limits import Concurrency, Credits, PerEvent, Quota, Rate, Threshold, Weight
from spendgate.limits.check import Grant
from spendgate.policy import EffectivePolicy, ReservationTerms
from spendgate.state import Override, burn_order
from spendgate.window import Window, calendar_window

START_US = 1_790_000_000_000_000
SECOND_US = 1_000_000
DAY_US = 86_400_000_000
METERS = {"runs": "run", "tokens": "token", "gpu": "second"}
MODES = st.sampled_from(["enforce", "enforce", "shadow"])
DENIALS = st.sampled_from(["stop", "throttle"])
METER_SETS = st.sampled_from([("runs",), ("tokens",), ("tokens", "gpu")])
SMALL = st.one_of(st.integers(0, 40), st.integers(0, 2_000))
MATCHES = st.sampled_from([{}, {}, {}, {"model": "claude-*"}, {"model": "gpt-5", "tier": "1"}, {"tier": "true"}])
PERS = st.sampled_from([None, None, None, "agent", "tier"])
ALLOWANCES = st.sampled_from([0, 0, 15, 10**6])

BOUNDARIES = [START_US // SECOND_US + days * 86_400 for days in (-2, 0, 1, 3, 4, 30)]
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
        match=draw(MATCHES),
        per=draw(PERS),
        max_values=draw(st.integers(1, 3)),
        outage_allowance=draw(ALLOWANCES),
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
        match=draw(MATCHES),
        outage_allowance=draw(ALLOWANCES),
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
        match=draw(MATCHES),
        per=draw(PERS),
        max_values=draw(st.integers(1, 3)),
    )


@st.composite
def concurrencies(draw, name):
    return Concurrency(
        id=name,
        meters=draw(METER_SETS),
        max=draw(st.integers(0, 3)),
        when_exceeded=draw(DENIALS),
        mode=draw(MODES),
        match=draw(MATCHES),
        per=draw(PERS),
        max_values=draw(st.integers(1, 3)),
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
        match=draw(MATCHES),
    )


TERMS = st.builds(
    ReservationTerms,
    lifetime_us=st.sampled_from([SECOND_US, 300 * SECOND_US]),
    max_lifetime_us=st.sampled_from([300 * SECOND_US, 3600 * SECOND_US]),
    grace_us=st.sampled_from([0, 30 * SECOND_US]),
    at_deadline=st.sampled_from(["release", "commit"]),
    above=st.sampled_from(["reject", "cap", "overage"]),
)
KINDS = [quotas, quotas, wallets, rates, concurrencies, caps_per_event]


@st.composite
def policies(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), max_size=5))
    meters = draw(st.sampled_from([("tokens", "gpu", "runs")] * 4 + [("tokens",)]))
    return EffectivePolicy(
        document="test",
        plan="test",
        meters={meter: METERS[meter] for meter in meters},
        limits=tuple(draw(kind(f"limit-{index}")) for index, kind in enumerate(kinds)),
        models=draw(st.sampled_from([None, None, None, (), ("claude-*",), ("gpt-5", "claude-*")])),
        deny_unknown=draw(st.sampled_from([False, False, True])),
        reservations=draw(TERMS),
        max_staleness_us=draw(st.sampled_from([None, None, 60 * SECOND_US])),
    )


GRANTS = st.lists(
    st.builds(
        Grant,
        id=st.sampled_from(["g1", "g2", "g3"]),
        micro_credits=st.sampled_from([0, 20, 500]),
        expires_at_us=st.sampled_from([0, START_US + 3600 * SECOND_US, START_US + DAY_US]),
        priority=st.integers(0, 1),
    ),
    max_size=3,
    unique_by=lambda grant: grant.id,
).map(burn_order)
QUANTITIES = st.one_of(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3000), st.just(10**12))
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["claude-5", "gpt-5", "gpt", "", None, 7, True]),
        "agent": st.sampled_from(["a", "b", "c", "d", "", None]),
        "tier": st.sampled_from([1, 1.0, 2.5, True, "1", "true"]),
        "context_window": st.one_of(
            SMALL, SMALL, SMALL, st.sampled_from([0, 9 * 10**15, 12.0, 1.5, -1, "8", True, None])
        ),
    },
)
EVENTS = st.fixed_dictionaries(
    {
        "quantities": st.dictionaries(st.sampled_from(list(METERS)), QUANTITIES, min_size=1, max_size=3),
        "metadata": METADATA,
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
