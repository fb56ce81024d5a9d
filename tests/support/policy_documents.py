"""Policy documents drawn at random: nearly all of them good, all of them in every limit parameter there is."""

from __future__ import annotations

import json

from hypothesis import assume
from hypothesis import strategies as st

from spendgate_daemon.documents import DocumentError, PolicyDocument, load_document

METERS = {"runs": {"unit": "run"}, "tokens.in": {"unit": "token"}, "tokens.out": {"unit": "token"}}
ZONES = ["UTC", "Europe/Berlin", "America/Havana", "Asia/Kolkata", "Pacific/Apia"]
SOME = st.integers(1, 9 * 10**9)
PERCENTS = st.integers(0, 100).map(lambda percent: f"{percent}%")
METER_PATTERNS = st.sampled_from(["runs", "tokens.in", "tokens.out", "tokens.*"])
MATCHES = st.dictionaries(
    st.sampled_from(["model", "agent_id", "region"]),
    st.sampled_from(["claude-*", "gpt-5", "*"]),
    min_size=1,
    max_size=2,
)
DURATIONS = st.sampled_from(["1s", "30s", "5m", "1h", "2d"])
CALENDARS = st.one_of(
    st.fixed_dictionaries(
        {"period": st.just("month")}, optional={"anchor_day": st.one_of(st.integers(1, 31), st.just("contract"))}
    ),
    st.fixed_dictionaries(
        {"period": st.just("week")}, optional={"anchor_weekday": st.sampled_from(["monday", "tuesday", "sunday"])}
    ),
    st.just({"period": "day"}),
)
WINDOWS = st.one_of(
    st.builds(
        lambda period, zone: period | zone,
        CALENDARS,
        st.fixed_dictionaries({}, optional={"timezone": st.sampled_from([*ZONES, "contract"])}),
    ),
    st.fixed_dictionaries(
        {"period": st.sampled_from(["30s", "90m", "5h", "2d"])},
        optional={"anchor": st.sampled_from(["2026-01-01T06:00:00Z", "1969-07-20T20:17:40-05:00"])},
    ),
)
COMMON = {"mode": st.sampled_from(["enforce", "shadow"]), "match": MATCHES}
DENIES = {"when_exceeded": st.sampled_from(["stop", "throttle"])}


@st.composite
def counted_apart(draw, limit):
    if draw(st.booleans()):
        limit = limit | {"per": draw(st.sampled_from(["agent_id", "model"]))}
        limit |= {"max_values": draw(st.integers(1, 10_000))} if draw(st.booleans()) else {}
    return limit


@st.composite
def quotas(draw):
    overage = draw(st.sampled_from(["block", "bill", {"bill_up_to": 1000}]))
    contractual = draw(st.booleans())
    limit = {"meter": draw(METER_PATTERNS if not contractual else st.just("runs"))} | draw(WINDOWS)
    limit |= {"cap": "contract" if contractual else draw(SOME), "overage": overage}
    limit |= draw(st.fixed_dictionaries({}, optional=COMMON | ({} if overage == "bill" else DENIES)))
    limit |= draw(st.fixed_dictionaries({}, optional={"outage_allowance": st.one_of(st.integers(0, 1), PERCENTS)}))
    limit |= {"thresholds": draw(st.sampled_from([[], [50], [80, 100]]))}
    limit = draw(counted_apart(limit))
    if overage != "bill" and not limit.keys() & {"match", "per"} and draw(st.booleans()):
        limit |= {"floor": 0 if contractual else limit["cap"] - 1}
    return {"kind": "quota"} | limit


@st.composite
def wallets(draw):
    prices = st.dictionaries(
        st.sampled_from(["*", "claude-*", "claude-opus-*", "gpt-5"]), st.integers(0, 10**6), min_size=1
    )
    weights = st.dictionaries(st.sampled_from(list(METERS)), prices, min_size=1)
    limit = {"kind": "credits", "weights": draw(weights)}
    limit |= draw(st.fixed_dictionaries({}, optional=COMMON | DENIES | {"outage_allowance": st.integers(0, 100)}))
    return limit if "match" in limit else limit | {"floor": draw(st.integers(0, 100))}


@st.composite
def rates(draw):
    limit = {"kind": "rate", "meter": draw(METER_PATTERNS)}
    limit |= {"rate": f"{draw(st.integers(1, 10**6))}/{draw(st.sampled_from(['s', 'min', 'h']))}"}
    limit |= draw(st.fixed_dictionaries({}, optional=COMMON | DENIES | {"burst": st.integers(1, 10**6)}))
    return draw(counted_apart(limit))


@st.composite
def concurrencies(draw):
    limit = {"kind": "concurrency", "max": draw(st.integers(1, 10**6))}
    limit |= draw(st.fixed_dictionaries({}, optional=COMMON | DENIES | {"meter": METER_PATTERNS}))
    return draw(counted_apart(limit))


@st.composite
def bounds(draw):
    limit = {"kind": "per_event", "max": draw(SOME), "meter": draw(METER_PATTERNS)}
    optional = COMMON | DENIES | {"field": st.sampled_from(["context_window", "images"])}
    return limit | draw(st.fixed_dictionaries({}, optional=optional))


RESERVATIONS = st.fixed_dictionaries(
    {},
    optional={
        "lifetime": st.sampled_from(["1s", "90s", "5m"]),
        "max_lifetime": st.sampled_from(["5m", "1h", "2d"]),
        "grace": st.sampled_from(["0s", "30s", "5m"]),
        "at_deadline": st.sampled_from(["release", "commit"]),
        "above": st.sampled_from(["reject", "cap", "overage"]),
    },
)


@st.composite
def plans(draw):
    limits = draw(st.lists(st.one_of(quotas(), wallets(), rates(), concurrencies(), bounds()), max_size=4))
    plan = {"limits": [limit | {"id": f"limit-{index}"} for index, limit in enumerate(limits)]}
    plan |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "models": st.lists(
                    st.sampled_from(["claude-*", "claude-opus-*", "gpt-5", "*"]), min_size=1, max_size=3
                ),
                "reservations": RESERVATIONS,
                "max_staleness": DURATIONS,
            },
        )
    )
    if any(limit["kind"] == "quota" for limit in limits) and draw(st.booleans()):
        plan |= {"outage_allowance": draw(PERCENTS)}
    return plan


@st.composite
def policy_documents(draw) -> PolicyDocument:
    """Checked documents, with one or two plans called `a` and `b`."""
    value = {"version": 1, "meters": METERS, "timezone": draw(st.sampled_from(ZONES))}
    value |= {"plans": {name: draw(plans()) for name in draw(st.sampled_from(["a", "ab"]))}}
    defaults = {"missing_contractual_cap": st.one_of(st.just("deny"), st.just("unlimited"), SOME)}
    defaults |= {"model_without_weight": st.one_of(st.just("deny"), st.integers(0, 1000))}
    value |= {"defaults": draw(st.fixed_dictionaries({}, optional=defaults))}
    try:
        return load_document(json.dumps(value))
    except DocumentError:
        assume(False)
        raise
