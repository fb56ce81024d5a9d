"""Guards for threads."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from spendgate.decision import Denied
from spendgate.errors import GateUnavailable
from spendgate.event import MetadataValue, UsageEvent
from spendgate.guard.terms import Arguments, Terms, Used, WhenUnavailable, constant, count, named
from spendgate.run import SyncReserves, SyncRun

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("spendgate.guard")


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
                with self._passed(read(*args, **kwargs)) as run, closing(function(*args, **kwargs)) as items:
                    for item in items:
                        count(run, self._used, item)
                        yield item

            return cast("Callable[P, T]", stream)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._passed(read(*args, **kwargs)) as run:
                result = function(*args, **kwargs)
                count(run, self._used, result)
                return result

        return call

    def _passed(self, event: UsageEvent) -> AbstractContextManager[SyncRun | None]:
        gate = self._gate()
        run = SyncRun(gate, event, self._lifetime_seconds) if self._used is not None else None
        return _SyncPassed(gate, event, run, self._when_unavailable)


class _SyncPassed(AbstractContextManager[SyncRun | None]):
    """See `_Passed`."""

    def __init__(
        self, gate: SyncReserves, event: UsageEvent, run: SyncRun | None, when_unavailable: WhenUnavailable
    ) -> None:
        self._gate, self._event, self._run = gate, event, run
        self._open = when_unavailable == "open"

    def __enter__(self) -> SyncRun | None:
        try:
            if self._run is not None:
                return self._run.__enter__()
            decision = self._gate.submit(self._event, mode="decide")
        except GateUnavailable as exc:
            if not self._open:
                raise
            _log.warning("the gate is unavailable: %s of %s passes unmetered", *named(self._event), exc_info=exc)
            self._run = None
            return None
        if not decision.allowed:
            raise Denied(decision)
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None:
            return
        try:
            self._run.__exit__(kind, error, trace)
        except GateUnavailable as exc:
            if not self._open:
                raise
            _log.warning("the gate is unavailable: %s of %s is not committed", *named(self._event), exc_info=exc)


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
