"""One piece of work that the gate lets pass: decided or reserved on the way in, committed on the way out."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Final, Literal, Self

from spendgate.decision import Decision, Denied
from spendgate.errors import GateUnavailable
from spendgate.event import UsageEvent
from spendgate.run import Reserves, Run, SyncReserves, SyncRun

WhenUnavailable = Literal["closed", "open"]
"""Without an answer from the gate: `closed` lets nothing pass, `open` everything, unmetered."""

_log: Final = logging.getLogger("spendgate.guard")
_UNDECIDED: Final = "the gate is unavailable: %s of %s passes unmetered"
_UNCOMMITTED: Final = "the gate is unavailable: %s of %s is not committed"


class Passed:
    """`async with Passed(...)`. Entering raises Denied, and GateUnavailable where that closes.

    `decision` is None where an open gate was unavailable. `run` is None without `reserve`; after an outage it counts in
    vain, so that whoever counts need not know.
    """

    decision: Decision | None = None

    def __init__(
        self,
        gate: Reserves,
        event: UsageEvent,
        *,
        reserve: bool,
        lifetime_seconds: int | None,
        when_unavailable: WhenUnavailable,
    ) -> None:
        self._gate, self._event = gate, event
        self._open = when_unavailable == "open"
        self.run = Run(gate, event, lifetime_seconds) if reserve else None

    async def __aenter__(self) -> Self:
        try:
            if self.run is not None:
                self.decision = (await self.run.__aenter__()).decision
                return self
            decision = await self._gate.submit(self._event, mode="decide")
        except GateUnavailable as exc:
            if not self._open:
                raise
            _log.warning(_UNDECIDED, *_named(self._event), exc_info=exc)
            return self
        if not decision.allowed:
            raise Denied(decision)
        self.decision = decision
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.run is None or self.decision is None:
            return
        try:
            await self.run.__aexit__(kind, error, trace)
        except GateUnavailable as exc:
            if not self._open:
                raise
            _log.warning(_UNCOMMITTED, *_named(self._event), exc_info=exc)


class SyncPassed:
    """`with SyncPassed(...)`; see `Passed`."""

    decision: Decision | None = None

    def __init__(
        self,
        gate: SyncReserves,
        event: UsageEvent,
        *,
        reserve: bool,
        lifetime_seconds: int | None,
        when_unavailable: WhenUnavailable,
    ) -> None:
        self._gate, self._event = gate, event
        self._open = when_unavailable == "open"
        self.run = SyncRun(gate, event, lifetime_seconds) if reserve else None

    def __enter__(self) -> Self:
        try:
            if self.run is not None:
                self.decision = self.run.__enter__().decision
                return self
            decision = self._gate.submit(self._event, mode="decide")
        except GateUnavailable as exc:
            if not self._open:
                raise
            _log.warning(_UNDECIDED, *_named(self._event), exc_info=exc)
            return self
        if not decision.allowed:
            raise Denied(decision)
        self.decision = decision
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.run is None or self.decision is None:
            return
        try:
            self.run.__exit__(kind, error, trace)
        except GateUnavailable as exc:
            if not self._open:
                raise
            _log.warning(_UNCOMMITTED, *_named(self._event), exc_info=exc)


def _named(event: UsageEvent) -> tuple[str, str]:
    """Meters and customer, for logs."""
    return " and ".join(event.quantities), event.customer_id
