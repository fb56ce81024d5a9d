"""A run under a reservation, as a context manager: reserved on the way in, ended exactly once on the way out.

A client that goes away cancels the task that serves it, and a web framework may cancel it again at each await. What is
asked of the gate is therefore asked by a task of its own, which cancelling doesn't reach: a reservation that is given is
ended, and what was used is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from spendgate.calls import Finished
from spendgate.decide import Mode
from spendgate.decision import Decision, Denied
from spendgate.errors import InvalidEvent, ReservationFinished, SpendgateError, UnknownReservation
from spendgate.event import UsageEvent
from spendgate.late import late_end, late_use_of

T = TypeVar("T")


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
        decision: Decision | None = getattr(self, "decision", None)
        if decision is None or decision.reservation_id is None:
            raise ValueError("nothing is reserved outside of the with block")
        return decision.reservation_id

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
    even that fails, GateUnavailable is raised; the reservation then ends by its deadline. Cancelling the block doesn't
    cancel this, and what was reserved for a block that was cancelled before it began is released.

    A block that lasts beyond the deadline and the plan's grace keeps nothing reserved: others may have used the room. What
    it told is recorded as usage all the same, so a limit may be exceeded; `finished.status` is `expired`, and a warning is
    logged. `extend` in time avoids it. ReservationFinished is raised where somebody else has ended the reservation.
    """

    def __init__(self, gate: Reserves, event: UsageEvent, lifetime_seconds: int | None) -> None:
        super().__init__(event, lifetime_seconds)
        self._gate = gate

    async def extend(self, seconds: int) -> None:
        """Move the deadline; see `Gate.extend`."""
        await self._gate.extend(self.reservation_id, seconds)

    async def __aenter__(self) -> Self:
        reserving = _started(self._gate.submit(self._event, mode="reserve", lifetime_seconds=self._lifetime_seconds))
        try:
            self.decision = await asyncio.shield(reserving)
        except asyncio.CancelledError:
            _started(self._let_go(reserving))
            raise
        if not self.decision.allowed:
            raise Denied(self.decision)
        return self

    async def _let_go(self, reserving: asyncio.Future[Decision]) -> None:
        """Release what is reserved for a block that never begins. Where that fails, the deadline does it."""
        with contextlib.suppress(SpendgateError):
            decision = await reserving
            if decision.reservation_id is not None and not decision.duplicate:
                await self._gate.release(decision.reservation_id)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finished = await asyncio.shield(_started(self._end()))

    async def _end(self) -> Finished:
        try:
            if self._actual is None:
                return await self._gate.release(self.reservation_id)
            return await self._gate.commit(self.reservation_id, quantities=self._actual)
        except (ReservationFinished, UnknownReservation) as exc:
            late = late_use_of(self.decision, self._actual or {}, exc)
            if late is None:
                raise
        recorded = await self._gate.submit(late.event, mode="record") if late.event is not None else None
        return late_end(self.decision, late, recorded)


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
        self.finished = self._end()

    def _end(self) -> Finished:
        try:
            if self._actual is None:
                return self._gate.release(self.reservation_id)
            return self._gate.commit(self.reservation_id, quantities=self._actual)
        except (ReservationFinished, UnknownReservation) as exc:
            late = late_use_of(self.decision, self._actual or {}, exc)
            if late is None:
                raise
        recorded = self._gate.submit(late.event, mode="record") if late.event is not None else None
        return late_end(self.decision, late, recorded)


_asked: set[asyncio.Future[Any]] = set()
"""A loop keeps only weak references to its tasks."""


def _started(asking: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """A task of its own, kept until it is done."""
    task = asyncio.ensure_future(asking)
    _asked.add(task)
    task.add_done_callback(_asked.discard)
    return task


def _whole(field: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise InvalidEvent(field, "a whole number, 0 or more")
    return value
