"""What a customer's records add up to: the definition of everything that Redis counts.

A record holds the counters as they were before it, so with `decide` and `finish` the newest one says what they are now, and
older ones are only asked for what it doesn't speak of. That is how a customer is made again when Redis has lost what it
knew, and what Redis can be compared with while it has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from spendgate.event import UsageEvent
from spendgate.held import place_of
from spendgate.limits import NOT_KEPT, Concurrency, Counters, Limit, Quota, Rate, counter_field, decode_counter
from spendgate.limits.check import applies
from spendgate.limits.layout import pack_integers
from spendgate.policy import EffectivePolicy
from spendgate.record import Record, finish_of, verdict_of
from spendgate.reservation import OpenEntry, finish
from spendgate.state import Standing
from spendgate.transports import Argument

_SEEN_WIDTHS: Final = (6, 5, 7)
"""After the fingerprint: epoch, sequence, decided at; see memory.lua."""

_ENDS: Final = ("commit", "release", "expire")
_BEFORE: Final = "<"
"""Begins the field of a quota's counter of the period before; see kept.lua."""


class Told(msgspec.Struct, frozen=True):
    """A record, where it stands in its partition's outbox, and the policy that it names."""

    stream_id: str
    record: Record
    policy: EffectivePolicy


class Value(msgspec.Struct, frozen=True):
    """The counter of one value of a limit with `per`. `limit` is its number in the policy in force, from 1;
    `at_seconds` is within the counter's period."""

    limit: int
    value: str
    at_seconds: int
    counter: bytes


class Restored(msgspec.Struct, frozen=True):
    """Everything that Redis holds of a customer, but policy state and overrides, which are kept elsewhere. `fields` are of
    the counters' hash; `seen` and `ended` are what is remembered of events, by identity; `open` has, per reservation, its
    event id, entry, and when it is ended (Unix microseconds)."""

    fields: dict[str, bytes]
    values: tuple[Value, ...]
    standing: Standing
    open: tuple[tuple[str, bytes, int], ...]
    seen: dict[bytes, bytes]
    ended: dict[bytes, bytes]

    def arguments(self) -> list[Argument]:
        """As restore.lua reads it: each group begins with its length."""
        values = [part for each in self.values for part in (each.limit, each.value, each.at_seconds, each.counter)]
        groups = (
            [self.standing.version, self.standing.encode()],
            [part for pair in self.fields.items() for part in pair],
            values,
            [part for each in self.open for part in each],
            [part for pair in self.seen.items() for part in pair],
            [part for pair in self.ended.items() for part in pair],
        )
        return [part for group in groups for part in (len(group), *group)]


class Tally:
    """Takes a customer's records, the newest first, until nothing older could matter (`wants`). `policy` is the one in
    force at `now_us`; events are remembered from `remembered_from_us` on."""

    def __init__(self, policy: EffectivePolicy, now_us: int, remembered_from_us: int) -> None:
        self._policy = policy
        self._remembered_from_us = remembered_from_us
        self._values_from_us = min(_value_periods(policy, now_us), default=now_us)
        self._fields: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._values: dict[tuple[str, int, str], tuple[int, Any]] = {}
        self._standing: Standing | None = None
        self._seen: dict[bytes, bytes] = {}
        self._ended: dict[bytes, bytes] = {}
        self._later: list[Told] = []

    @property
    def missing(self) -> set[str]:
        """Counters of the policy in force that no record has spoken of yet."""
        counting = (limit for limit in self._policy.limits if limit.per is None and limit.Counter is not None)
        return {counter_field(limit) for limit in counting} - self._fields.keys()

    def wants(self, at_us: int) -> bool:
        """Whether records of that instant may matter, beside those that speak of what is `missing`."""
        return at_us >= min(self._remembered_from_us, self._values_from_us) or self._standing is None

    def take(self, told: Told) -> None:
        """The next older record. Its counters are right."""
        self._remember(told)
        self._stand(told)
        record, policy = told.record, told.policy
        if record.kind not in ("decision", "finish"):
            self._note(told, _repaired(told))
        elif self._speaks(told):
            again = verdict_of if record.kind == "decision" else finish_of
            debited = record.result.outcome == "allow" and record.mode != "extend"
            self._note(told, again(record, policy).counters if debited else {})

    def look_up(self, told: Told) -> None:
        """A record out of the order, for the counters that are missing: the newest under its policy."""
        if self.missing & {counter_field(limit) for limit in told.policy.limits}:
            self.take(told)

    def add(self, told: Told) -> None:
        """The next older record, whose counters lack what was lost: only what it debited counts. All of these are newer
        than those that are taken."""
        self._remember(told)
        self._stand(told)
        self._later.append(told)

    def result(self, open_now: Iterable[tuple[OpenEntry, EffectivePolicy]]) -> Restored:
        """With the reservations that are open, each with the policy it was given under."""
        for told in reversed(self._later):
            self._debit(told)
        numbers = {counter_field(limit): index for index, limit in enumerate(self._policy.limits, start=1)}
        fields = {name: counter.encode() for name, counter in self._fields.items() if counter is not None}
        fields |= {_BEFORE + name: counter.encode() for name, counter in self._before.items()}
        return Restored(
            fields=fields,
            values=tuple(
                Value(numbers[field], value, at_seconds, counter.encode())
                for (field, _, value), (at_seconds, counter) in self._values.items()
                if field in numbers
            ),
            standing=self._standing or Standing(),
            open=tuple(
                (entry.event.event_id, entry.encode(), entry.deadline_us + policy.reservations.grace_us)
                for entry, policy in open_now
            ),
            seen=self._seen,
            ended=self._ended,
        )

    def _speaks(self, told: Told) -> bool:
        """Whether the record says anything that no younger one has said."""
        for limit in told.policy.limits:
            if limit.Counter is None:
                continue
            key = _value_key(limit, told)
            if (key is not None and key not in self._values) if limit.per else counter_field(limit) not in self._fields:
                return True
        return False

    def _note(self, told: Told, after: Counters) -> None:
        for limit, raw in zip(told.policy.limits, told.record.counters, strict=True):
            if limit.Counter is None or raw == NOT_KEPT:
                continue
            field = counter_field(limit)
            counter = after.get(field, None if raw is None else decode_counter(limit, raw))
            if limit.per is None:
                self._note_field(limit, field, counter, told)
            elif counter is not None and not isinstance(limit, Concurrency):
                key = _value_key(limit, told)
                if key is not None:
                    self._values.setdefault(key, (_at_us(told.record) // 1_000_000, counter))

    def _note_field(self, limit: Limit, field: str, counter: Any, told: Told) -> None:
        if isinstance(limit, Quota) and _is_late(limit, told.record):
            # It speaks of a period that was over by then: the open one, where nothing was used since, or the one before.
            known = self._fields.get(field)
            if counter is not None and (known is None or known.period_start_seconds > counter.period_start_seconds):
                self._before.setdefault(field, counter)
            return
        if field not in self._fields:
            late = self._before.get(field)
            if late is not None and (counter is None or counter.period_start_seconds == late.period_start_seconds):
                counter = self._before.pop(field)
            self._fields[field] = counter
        elif isinstance(limit, Quota) and counter is not None and field not in self._before:
            known = self._fields[field]
            if known is None or known.period_start_seconds == counter.period_start_seconds:
                return
            # Usually the older record is of the older period; not where the clock was put back.
            older, newer = sorted((known, counter), key=lambda each: each.period_start_seconds)
            self._before[field], self._fields[field] = older, newer

    def _debit(self, told: Told) -> None:
        record, event, committed = told.record, told.record.event, told.record.debited
        if event is None or not committed:
            return
        at_us = _at_us(record)
        counters = self._counters_of(told, at_us)
        after = finish(
            told.policy,
            record.state,
            counters,
            event,
            committed,
            at_us,
            record.now_us,
            held=False,
            corrects=record.mode == "correct",
        ).counters
        for limit in told.policy.limits:
            field, key = counter_field(limit), _value_key(limit, told)
            if field not in after:
                continue
            if key is not None:
                self._values[key] = (at_us // 1_000_000, after[field])
            elif limit.per is None:
                self._put(limit, field, after[field])

    def _counters_of(self, told: Told, at_us: int) -> Counters:
        """What the limits of a late debit look at: the counters of the period of `at_us`."""
        found: Counters = {}
        for limit in told.policy.limits:
            field, key = counter_field(limit), _value_key(limit, told)
            counter = self._values.get(key, (0, None))[1] if key is not None else self._fields.get(field)
            if isinstance(limit, Quota) and key is None and counter is not None:
                period = limit.window.period_at(at_us)
                if period is not None and counter.period_start_seconds > period[0]:
                    counter = self._before.get(field)
            if counter is not None:
                found[field] = counter
        return found

    def _put(self, limit: Limit, field: str, counter: Any) -> None:
        known = self._fields.get(field)
        if isinstance(limit, Quota) and known is not None:
            if counter.period_start_seconds < known.period_start_seconds:
                self._before[field] = counter
                return
            if counter.period_start_seconds > known.period_start_seconds:
                self._before[field] = known
        self._fields[field] = counter

    def _stand(self, told: Told) -> None:
        if self._standing is not None:
            return
        record = told.record
        if record.kind == "decision" and record.event is not None:
            standing = verdict_of(record, told.policy).standing
        else:
            standing = msgspec.structs.replace(record.standing, state=record.result.state_after)
        self._standing = msgspec.structs.replace(standing, denials=())

    def _remember(self, told: Told) -> None:
        record, event = told.record, told.record.event
        if event is None or record.now_us < self._remembered_from_us or record.result.outcome != "allow":
            return
        identity = event.identity()
        if record.kind == "decision" or record.mode == "settle":
            epoch, sequence = map(int, told.stream_id.split("-"))
            fingerprint = event.fingerprint(reserved=record.mode == "reserve")
            seen = fingerprint + pack_integers(_SEEN_WIDTHS, (epoch, sequence, _at_us(record)))
            self._seen.setdefault(identity, seen)
        elif record.mode in _ENDS and record.reservation is not None:
            *facts, _ = msgspec.structs.astuple(record.reservation)  # an end corrects nothing
            end = msgspec.msgpack.encode((told.stream_id, record.result.reason, facts))
            self._ended.setdefault(identity, end)


def _repaired(told: Told) -> Counters:
    """Counters that a repair of what was used has changed."""
    after: Counters = {}
    for limit, raw in zip(told.policy.limits, told.record.counters, strict=True):
        for each in told.record.repaired:
            if each.kind == "used" and each.limit_id == limit.id and isinstance(limit, Quota) and raw:
                after[counter_field(limit)] = msgspec.structs.replace(decode_counter(limit, raw), used=each.after)
    return after


def _at_us(record: Record) -> int:
    """The instant that a record's debit counts at."""
    return record.reservation.effective_at_us if record.reservation is not None else record.now_us


def _is_late(limit: Quota, record: Record) -> bool:
    return limit.window.period_at(_at_us(record)) != limit.window.period_at(record.now_us)


def _value_key(limit: Limit, told: Told) -> tuple[str, int, str] | None:
    """Where a limit with `per` counts the record's event; None for another limit, and for an event that isn't its."""
    event: UsageEvent | None = told.record.event
    if limit.per is None or event is None or not applies(limit.match, event):
        return None
    if not any(meter in event.quantities for meter in limit.meters):
        return None
    place = place_of(limit, event, _at_us(told.record))
    return None if place is None else (place.field, place.period_start_seconds, place.value or "")


def _value_periods(policy: EffectivePolicy, now_us: int) -> Iterator[int]:
    """Since when values of limits with `per` count, Unix microseconds."""
    for limit in policy.limits:
        if limit.per is None:
            continue
        if isinstance(limit, Quota):
            period = limit.window.period_at(now_us)
            if period is not None:
                yield period[0] * 1_000_000
        elif isinstance(limit, Rate):
            yield now_us - limit.burst * limit.per_us // limit.units
