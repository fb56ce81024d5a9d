"""Guards for asyncio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar, overload

from spendgate.event import MetadataValue, UsageEvent
from spendgate.guard.passed import Passed, WhenUnavailable
from spendgate.guard.terms import Arguments, Terms, Used, constant, count
from spendgate.run import Reserves

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Guards coroutine functions and asynchronous generators by a `Gate`."""

    def __init__(
        self,
        gate: Reserves | Callable[[], Reserves],
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

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, function: Callable[P, AsyncIterator[T]]) -> Callable[P, AsyncGenerator[T, None]]: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        read = self._terms.reader_of(function)
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
                async with self._passed(read(*args, **kwargs)) as passed, aclosing(function(*args, **kwargs)) as items:
                    async for item in items:
                        count(passed.run, self._used, item)
                        yield item

            return stream
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is not asynchronous: guard it by a SyncGate")

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            async with self._passed(read(*args, **kwargs)) as passed:
                result = await function(*args, **kwargs)
                count(passed.run, self._used, result)
                return result

        return call

    def _passed(self, event: UsageEvent) -> Passed:
        return Passed(
            self._gate(),
            event,
            reserve=self._used is not None,
            lifetime_seconds=self._lifetime_seconds,
            when_unavailable=self._when_unavailable,
        )


def guard(
    gate: Reserves | Callable[[], Reserves],
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
) -> Guard:
    """Decorate a coroutine function or an asynchronous generator: it runs when the gate lets it, else raises Denied.

    Text names a parameter of the function, a callable gets the call's arguments by name: `customer="customer_id"`, or
    `customer=lambda call: call["request"].customer_id`. A number is `quantity` itself; `metadata` lists parameters that
    are sent under their own names. `event_id` None makes one per call, so that calling again is another event.

    With `used`, the quantity is an estimate that is reserved, and what `used` says is committed: of the result, or
    summed over the items of a stream. `lifetime_seconds` should outlast the call (see `Run` for what happens
    otherwise); None is what the plan gives.
    `gate` may be a function, for a gate that is made after its functions are. A generator asks when its first item is
    asked for; whoever leaves one early closes it (`contextlib.aclosing`), which is when it commits.

    Raises TypeError where the function can't be guarded so. The function raises what `Gate.decide` and `Gate.commit`
    do; GateUnavailable only with `when_unavailable="closed"`.
    """
    terms = Terms(
        customer=customer,
        meter=meter,
        quantity=quantity,
        quantities=quantities,
        metadata=metadata,
        event_id=event_id,
    )
    return Guard(gate, terms, used, lifetime_seconds, when_unavailable)
