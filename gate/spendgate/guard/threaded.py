"""Guards for threads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, ParamSpec, TypeVar, cast

from spendgate.event import MetadataValue, UsageEvent
from spendgate.guard.passed import SyncPassed, WhenUnavailable
from spendgate.guard.terms import Arguments, Terms, Used, constant, count
from spendgate.run import SyncReserves

P = ParamSpec("P")
T = TypeVar("T")


class SyncGuard:
    """Guards functions and generators by a `SyncGate`; see `Guard`."""

    def __init__(
        self,
        gate: SyncReserves | Callable[[], SyncReserves],
        terms: Terms,
        used: Used | None,
        lifetime_seconds: int | None,
        when_unavailable: WhenUnavailable,
    ) -> None:
        self._gate = gate if callable(gate) else constant(gate)
        self._terms = terms
        self._used = used
        self._lifetime_seconds = lifetime_seconds
        self._when_unavailable = when_unavailable

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        read = self._terms.reader_of(function)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is asynchronous: guard it by a Gate, which does not block its loop"
            )
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def stream(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, None, None]:
                with self._passed(read(*args, **kwargs)) as passed, closing(function(*args, **kwargs)) as items:
                    for item in items:
                        count(passed.run, self._used, item)
                        yield item

            return cast("Callable[P, T]", stream)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._passed(read(*args, **kwargs)) as passed:
                result = function(*args, **kwargs)
                count(passed.run, self._used, result)
                return result

        return call

    def _passed(self, event: UsageEvent) -> SyncPassed:
        return SyncPassed(
            self._gate(),
            event,
            reserve=self._used is not None,
            lifetime_seconds=self._lifetime_seconds,
            when_unavailable=self._when_unavailable,
        )


def guard_sync(
    gate: SyncReserves | Callable[[], SyncReserves],
    *,
    customer: str | Callable[[Arguments], str],
    meter: str | None = None,
    quantity: int | str | Callable[[Arguments], int] = 1,
    quantities: Mapping[str, int] | Callable[[Arguments], Mapping[str, int]] | None = None,
    metadata: Sequence[str] | Callable[[Arguments], Mapping[str, MetadataValue]] = (),
    event_id: str | Callable[[Arguments], str] | None = None,
    used: Used | None = None,
    lifetime_seconds: int | None = None,
    when_unavailable: WhenUnavailable = "closed",
) -> SyncGuard:
    """See `guard`; for functions and generators that are not asynchronous."""
    terms = Terms(
        customer=customer,
        meter=meter,
        quantity=quantity,
        quantities=quantities,
        metadata=metadata,
        event_id=event_id,
    )
    return SyncGuard(gate, terms, used, lifetime_seconds, when_unavailable)
