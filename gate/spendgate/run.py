"""A run under a reservation, as a context manager: reserved on the way in, ended exactly once on the way out."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from spendgate.calls import Finished
from spendgate.decide import Mode
from spendgate.decision import Decision, Denied
from spendgate.errors import InvalidEvent
from spendgate.event import UsageEvent


class Reserves(Protocol):
    """What a run needs of a `Gate`."""

    async def submit(
        self, event: UsageEvent, *, mode: Mode, dry_run: bool = False, lifetime_seconds: int | None = None
    ) -> Decision: ...

    async def commit(
        self, reservation_id: str, quantity: int | None = None, *, quantities: Mapping[str, int] | None = None
    ) -> Finished: ...

    async def release(self, reservation_id: str) -> Finished: ...

    async def extend(self, reservation_id: str, seconds: int) -> Finished: ...


class SyncReserves(Protocol):
    """What a run needs of a `SyncGate`."""

    def submit(
        self, event: UsageEvent, *, mode: Mode, dry_run: bool = False, lifetime_seconds: int | None = None
    ) -> Decision: ...

    def commit(
        self, reservation_id: str, quantity: int | None = None, *, quantities: Mapping[str, int] | None = None
    ) -> Finished: ...

    def release(self, reservation_id: str) -> Finished: ...

    def extend(self, reservation_id: str, seconds: int) -> Finished: ...


class _Counting:
    """What a run has used so far. `decision` and `finished` are set on the way in and out."""

    decision: Decision
    finished: Finished | None = None

    def __init__(self, event: UsageEvent, lifetime_seconds: int | None) -> None:
        self._event = event
        self._lifetime_seconds = lifetime_seconds
        self._actual: dict[str, int] | None = None

    @property
    def reservation_id(self) -> str:
        """For whoever ends the reservation in another process."""
        if self.decision.reservation_id is None:
            raise ValueError("nothing is reserved outside of the with block")
        return self.decision.reservation_id

    def add(self, quantity: int, meter: str | None = None) -> None:
        """Count use while it streams. What is counted is committed at the end, even when the block raises."""
        name = self._meter(meter)
        actual = dict(self._actual or {})
        actual[name] = actual.get(name, 0) + _whole("quantity", quantity)
        self._actual = actual

    def commit(self, quantity: int | None = None, *, quantities: Mapping[str, int] | None = None) -> None:
        """Say what was used in all; it is committed on the way out. The last word counts."""
        if quantities is None:
            self._actual = {self._meter(None): _whole("quantity", quantity)}
        else:
            self._actual = {meter: _whole(f"quantities.{meter}", units) for meter, units in quantities.items()}

    def release(self) -> None:
        """Say that nothing was used."""
        self._actual = None

    def _meter(self, meter: str | None) -> str:
        if meter is not None:
            return meter
        if len(self._event.quantities) != 1:
            raise InvalidEvent("meter", f"one of {', '.join(sorted(self._event.quantities))}")
        return next(iter(self._event.quantities))


class Run(_Counting):
    """`async with gate.reserve(...) as run`. Entering raises Denied when the event does not fit.

    On the way out it commits what `commit` or `add` told, and releases the reservation when they told nothing. When
    even that fails, GateUnavailable is raised; the reservation then ends by its deadline.
    """

    def __init__(self, gate: Reserves, event: UsageEvent, lifetime_seconds: int | None) -> None:
        super().__init__(event, lifetime_seconds)
        self._gate = gate

    async def extend(self, seconds: int) -> None:
        """Move the deadline; see `Gate.extend`."""
        await self._gate.extend(self.reservation_id, seconds)

    async def __aenter__(self) -> Self:
        self.decision = await self._gate.submit(self._event, mode="reserve", lifetime_seconds=self._lifetime_seconds)
        if not self.decision.allowed:
            raise Denied(self.decision)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._actual is None:
            self.finished = await self._gate.release(self.reservation_id)
        else:
            self.finished = await self._gate.commit(self.reservation_id, quantities=self._actual)


class SyncRun(_Counting):
    """`with gate.reserve(...) as run`; see `Run`."""

    def __init__(self, gate: SyncReserves, event: UsageEvent, lifetime_seconds: int | None) -> None:
        super().__init__(event, lifetime_seconds)
        self._gate = gate

    def extend(self, seconds: int) -> None:
        """Move the deadline; see `Gate.extend`."""
        self._gate.extend(self.reservation_id, seconds)

    def __enter__(self) -> Self:
        self.decision = self._gate.submit(self._event, mode="reserve", lifetime_seconds=self._lifetime_seconds)
        if not self.decision.allowed:
            raise Denied(self.decision)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._actual is None:
            self.finished = self._gate.release(self.reservation_id)
        else:
            self.finished = self._gate.commit(self.reservation_id, quantities=self._actual)


def _whole(field: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise InvalidEvent(field, "a whole number, 0 or more")
    return value
