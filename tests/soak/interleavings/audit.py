"""The accountant: goes through what an interleaving left, and adds up for itself.

It reads the outbox in order with books of its own (see `books`) and never asks the definition: a plain `allowed` must have
fitted, nothing may be denied that fits, each event is allowed once, each reservation ends once, and what the books say in
the end is what the counters say.
"""

from __future__ import annotations

from typing import Any

import msgspec

from interleavings.books import Books, Broken, Terms
from interleavings.menu import CUSTOMER, POLICIES, contract_arguments
from interleavings.plan import Ask, Contract, End, External, Housekeeping, Plan, Step
from spendgate.limits import OpenCounter, PeriodCounter, RateCounter, WalletCounter
from spendgate.record import Record, decode_record
from spendgate.state import OverrideSet, PolicyState

_POLICIES = {policy.digest: policy for policy in POLICIES}
_TERMINAL = ("commit", "release", "expire")


class Played(msgspec.Struct):
    """`answers` is each step with what Redis answered; `before` and `after` the end of open reservations is what was
    stored then."""

    seed: int
    plan: Plan
    answers: list[tuple[Step, list[Any]]] = msgspec.field(default_factory=list)
    before: dict[str, Any] = msgspec.field(default_factory=dict)
    after: dict[str, Any] = msgspec.field(default_factory=dict)


def per_keys(played: Played, tag: str) -> dict[str, tuple[str, int]]:
    """Where counters of limits with `per` may be: key to limit and period."""
    hours = {step.now_us // 3_600_000_000 * 3600 for step in played.plan}
    places = {f"{tag}per:concurrency:open-per-agent:0:{CUSTOMER}": ("open-per-agent", 0)}
    return places | {f"{tag}per:quota:hour-per-agent:{hour}:{CUSTOMER}": ("hour-per-agent", hour) for hour in hours}


def audit(played: Played) -> None:
    """Raises Broken when anything does not add up."""
    try:
        _audit(played)
    except Broken as broken:
        broken.add_note(f"interleaving of seed {played.seed}: play it again with --seed {played.seed} --count 1")
        raise


def _audit(played: Played) -> None:
    entries = [(raw_id.decode(), decode_record(fields[1])) for raw_id, fields in played.after["outbox"]]
    for number, (stream_id, _) in enumerate(entries, 1):
        check(stream_id.endswith(f"-{number}"), f"entry {number} is {stream_id}: the sequence has a gap")
    check(int(played.after["seq"]) == len(entries), "the sequence is not the number of entries")
    books, changes, compared = Books(), _changes(played), False
    for number, (stream_id, record) in enumerate(entries, 1):
        if number > int(played.before["seq"]) and not compared:
            _compare(books, played.before)
            compared = True
        while changes and changes[0][0] < number:
            changes.pop(0)[1](books.terms)
        policy = _POLICIES[record.policy]
        if record.kind == "decision":
            books.decide(stream_id, record, policy)
        elif record.kind == "finish":
            books.finish(stream_id, record, policy)
        books.cross(record, policy)
    if not compared:
        _compare(books, played.before)
    _compare(books, played.after)
    check(not books.open, f"reservations never ended: {sorted(books.open)}")
    _check_answers(played, dict(entries), books)


def check(holds: bool, message: str) -> None:  # noqa: FBT001  (reads as an assertion)
    if not holds:
        raise Broken(message)


def _changes(played: Played) -> list[tuple[int, Any]]:
    """What the operator changed, each with the sequence of the last entry that may have been written before. An entry
    that a change itself writes says nothing of what fits."""
    found: list[tuple[int, Any]] = []
    for step, answers in played.answers:
        action = step.action
        if action == Housekeeping("forget"):
            found.append((int(answers[1]), Terms.forget))
        if not isinstance(action, Contract | OverrideSet | External):
            continue
        written = answers[0] == 1
        check(written or isinstance(action, External), f"{action} was answered {answers[0]}")
        if not written:
            continue
        seq = int(answers[1])
        if isinstance(action, Contract):
            state = PolicyState.decode(contract_arguments(*msgspec.structs.astuple(action))[0])  # type: ignore[arg-type]
            found.append((seq, lambda terms, state=state: terms.agree(state)))
        elif isinstance(action, OverrideSet):
            found.append((seq, lambda terms, given=action.overrides: terms.override(given)))
        else:
            found.append(
                (seq, lambda terms, given=action, at=step.now_us: terms.read_external(given.limit_id, given.amount, at))
            )
    return found


def _compare(books: Books, stored: dict[str, Any]) -> None:
    """What the books say is what is kept."""
    counters = {name.decode(): raw for name, raw in stored["counters"].items() if name != b"*"}
    for name, raw in counters.items():
        kind, _, limit_id = name.removeprefix("<").partition(":")
        if kind == "quota" and limit_id != "hour-per-agent":
            _compare_period(books, limit_id, "", PeriodCounter.decode(raw))
        elif kind == "credits":
            wallet = WalletCounter.decode(raw)
            found, expected = (wallet.used, wallet.reserved), books.totals(limit_id, "", 0)
            check(found == expected, f"{limit_id}: used and reserved are {found}, the outbox says {expected}")
        elif kind == "rate":
            rate = RateCounter.decode(raw)
            expected = books.debts.get(limit_id, (0, 0))
            check((rate.updated_us, rate.debt) == expected, f"{limit_id}: {rate}, the outbox says {expected}")
        elif kind == "concurrency":
            expected_open = books.totals(limit_id, "", 0)[1]
            check(OpenCounter.decode(raw).open == expected_open, f"{limit_id}: {raw!r}, open are {expected_open}")
    for limit_id, value, _ in books.touched():
        if value == "" and not limit_id.endswith("-per-agent"):
            fields = {
                f"{before}{kind}:{limit_id}" for before in ("", "<") for kind in ("quota", "credits", "concurrency")
            }
            check(bool(fields & set(counters)), f"{limit_id} was debited and has no counter")
    _compare_values(books, stored["per"])
    check({raw.decode() for raw in stored["reservations"]} == set(books.open), "the open reservations are others")
    check({raw.decode() for raw in stored["ends"][::2]} == set(books.open), "the ends are of other reservations")


def _compare_period(books: Books, limit_id: str, value: str, counter: PeriodCounter) -> None:
    found = (counter.used, counter.reserved)
    expected = books.totals(limit_id, value, counter.period_start_seconds)
    place = f"{limit_id} {value} of {counter.period_start_seconds}"
    check(found == expected, f"{place}: used and reserved are {found}, the outbox says {expected}")


def _compare_values(books: Books, per: dict[tuple[str, int], dict[bytes, bytes]]) -> None:
    for (limit_id, period), values in per.items():
        check(len(values) <= 2, f"{limit_id} keeps {len(values)} values")
        for value, raw in values.items():
            if limit_id == "open-per-agent":
                found, expected = OpenCounter.decode(raw).open, books.totals(limit_id, value.decode(), 0)[1]
                check(found == expected, f"{limit_id} {value!r}: {found} open, the outbox says {expected}")
            else:
                _compare_period(books, limit_id, value.decode(), PeriodCounter.decode(raw))
        kept = {value.decode() for value in values}
        for touched_id, value, touched_period in books.touched():
            if (touched_id, touched_period) == (limit_id, period) and any(books.totals(limit_id, value, period)):
                check(
                    value in kept or (limit_id == "open-per-agent" and not books.totals(limit_id, value, 0)[1]),
                    "no counter",
                )


# Answers -------------------------------------------------------------------------------------------------------------


def _check_answers(played: Played, entries: dict[str, Record], books: Books) -> None:
    for step, answers in played.answers:
        action = step.action
        if isinstance(action, Ask):
            _check_ask(action, answers[0], entries, books)
        elif isinstance(action, End) and answers:
            _check_end(action, answers[0], entries, books)


def _check_ask(action: Ask, answer: list[Any], entries: dict[str, Record], books: Books) -> None:
    event_id, status = action.event.event_id, answer[0].decode()
    allowed_as = books.allowed[event_id]
    if status == "error":
        code = answer[1].decode()
        conflicts = any(not _same(action, entries[stream_id]) for stream_id in allowed_as)
        check(code == "lifetime_too_long" or (code == "conflict" and conflicts), f"{event_id} was refused: {code}")
        return
    record = entries.get(answer[1].decode())
    check(record is not None and record.event is not None, f"{event_id} was answered with an entry that is not there")
    assert record is not None and record.event is not None  # noqa: PT018
    if status == "coalesced":
        check(record.result.outcome != "allow", f"{event_id} is one of many denials, and names what was allowed")
        return
    check(record.event.event_id == event_id and _same(action, record), f"{event_id} was given another event's answer")
    outcome = {1: "allow", 2: "throttle", 3: "stop"}[answer[2]]
    check(record.result.outcome == outcome, f"{event_id}: answered {outcome}, written {record.result.outcome}")
    if outcome == "allow":
        check(answer[1].decode() in allowed_as, f"{event_id} was allowed as {answer[1]!r} and as {allowed_as}")
    if status == "duplicate":
        check(outcome == "allow", f"{event_id} was not allowed, and remembered")


def _same(action: Ask, record: Record) -> bool:
    event = record.event
    same = event is not None and (event.quantities, event.metadata) == (action.event.quantities, action.event.metadata)
    return same and (action.mode == "reserve") == (record.mode == "reserve")


_REFUSALS = ("above_reserved", "reservation_finished", "extension_too_long")


def _check_end(action: End, answer: list[Any], entries: dict[str, Record], books: Books) -> None:
    status = answer[0].decode()
    ended = books.ended[action.event_id]
    if status == "error":
        check(answer[1].decode() in _REFUSALS, f"the end of {action.event_id} was refused: {answer[1]!r}")
        return
    record = entries.get(answer[1].decode())
    check(record is not None and record.kind == "finish", f"{action.event_id}: its end is not in the outbox")
    assert record is not None
    check(record.mode == action.action, f"{action.event_id}: {action.action} was written as {record.mode}")
    if record.mode in _TERMINAL:
        check(answer[1].decode() in ended, f"{action.event_id} ended as {ended}, and as {answer[1]!r}")


__all__ = ["Broken", "Played", "Terms", "audit", "per_keys"]
