"""What a guarded function asks for: its event, read from the arguments of each call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from spendgate.event import MetadataValue, UsageEvent, usage_event
from spendgate.run import Run, SyncRun

T = TypeVar("T")

Arguments = Mapping[str, Any]
"""A call's arguments by parameter name, defaults included."""

Used = Callable[[Any], int | Mapping[str, int] | None]
"""What a result, or an item of a stream, says was used: a quantity, or quantities by meter; None says nothing."""


class Terms:
    """What a guarded function asks for, read from the arguments of each call; see `guard` for the parameters."""

    def __init__(
        self,
        *,
        customer: str | Callable[[Arguments], str],
        meter: str | None,
        quantity: int | str | Callable[[Arguments], int],
        quantities: Mapping[str, int] | Callable[[Arguments], Mapping[str, int]] | None,
        metadata: Sequence[str] | Callable[[Arguments], Mapping[str, MetadataValue]],
        event_id: str | Callable[[Arguments], str] | None,
    ) -> None:
        if (meter is None) == (quantities is None):
            raise TypeError("guard needs either meter or quantities")
        if isinstance(metadata, str):
            metadata = (metadata,)
        self._customer = _reader(customer)
        self._meter = meter
        self._quantity = _reader(quantity) if quantities is None else constant(None)
        self._quantities = quantities if callable(quantities) else constant(quantities)
        self._metadata = metadata if callable(metadata) else _picker(metadata)
        self._event_id = _reader(event_id) if event_id is not None else constant(None)
        named = [customer, event_id, quantity if quantities is None else None]
        self._names = [*(name for name in named if isinstance(name, str)), *(() if callable(metadata) else metadata)]

    def reader_of(self, function: Callable[..., Any]) -> Callable[..., UsageEvent]:
        """What makes the event of one call of `function`. Raises TypeError when it has no such parameter."""
        signature = inspect.signature(function)
        missing = [name for name in self._names if name not in signature.parameters]
        if missing:
            has = ", ".join(signature.parameters) or "none"
            raise TypeError(f"{function.__qualname__} has no parameter {missing[0]!r} to guard by; it has {has}")

        def read(*args: Any, **kwargs: Any) -> UsageEvent:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self._event(bound.arguments)

        return read

    def _event(self, arguments: Arguments) -> UsageEvent:
        return usage_event(
            self._customer(arguments),
            self._meter,
            self._quantity(arguments),
            quantities=self._quantities(arguments),
            event_id=self._event_id(arguments),
            metadata=self._metadata(arguments),
        )


def count(run: Run | SyncRun | None, used: Used | None, result: Any) -> None:
    """Count in the run, where there is one, what a result says was used."""
    if run is None or used is None:
        return
    found = used(result)
    if isinstance(found, Mapping):
        for meter, quantity in found.items():
            run.add(quantity, meter)
    elif found is not None:
        run.add(found)


def _reader(value: Any) -> Callable[[Arguments], Any]:
    """Text is a parameter's name, a callable is asked, anything else is the value."""
    if callable(value):
        return cast("Callable[[Arguments], Any]", value)
    if isinstance(value, str):
        return lambda arguments: arguments[value]
    return constant(value)


def _picker(names: Sequence[str]) -> Callable[[Arguments], dict[str, Any]]:
    return lambda arguments: {name: arguments[name] for name in names}


def constant(value: T) -> Callable[..., T]:
    """Whatever is asked, this."""
    return lambda *_: value
