"""ASGI middleware: a request is decided before the application sees it.

It works with any ASGI 3 server and framework and needs none. A denial is answered here, as problem details (RFC 9457)
with the status that the HTTP API gives to gateways; the application is not called. Bodies are neither read nor
buffered in either direction. Lifespan and WebSocket scopes pass: one handshake carries many events, so a WebSocket's
handler asks the gate for each message.

A `Denied` that the application itself raises, from `gate.reserve` or a guard, is answered in the same way if its answer
hasn't begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from spendgate.decision import Decision, Denied
from spendgate.errors import Conflict, GateUnavailable, InvalidEvent, NotPrepared, SpendgateError, UnknownMeter
from spendgate.event import MetadataValue, UsageEvent, usage_event
from spendgate.gateway import retry_after_seconds_of, status_of
from spendgate.guard.passed import Passed, WhenUnavailable
from spendgate.limits.check import matches
from spendgate.run import Reserves

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DECISION: Final = "spendgate_decision"
"""Key in the scope's state: `request.state.spendgate_decision` in Starlette and FastAPI."""

RUN: Final = "spendgate_run"
"""The same for the `Run`, with `reserve`."""

PROBLEMS: Final = "https://spendgate.dev/problems/"

_RETRY_SOON_SECONDS: Final = 1


class GateMiddleware:
    """Wraps an application so that the gate decides each request.

    Args:
        app: The application.
        gate: A `Gate`, or a function that gives the one that was made at startup.
        customer: The customer that a scope is for. Read it from what authentication left in the scope, not from what
            a client can make up. A scope that is for no customer (None) is answered with 403.
        meter, quantity, quantities, metadata: As in `Gate.decide`, or functions of the scope.
        event_id: A function of the scope. None makes an id for each request. What is asked again under an id is
            debited once, so an id that the client chooses lets it ask for nothing.
        paths: Which requests are decided: paths, where a final `*` stands for any rest, or a function of the scope.
        reserve: Hold the quantity while the application runs. The application tells the `Run` in the scope's state
            what is used (`add`, `commit`), also in the middle of a stream; a run that is told nothing is released.
        lifetime_seconds: Of the reservation; None is what the plan gives.
        when_unavailable: Without an answer from the gate, `closed` answers 503, `open` calls the application.

    The state of the scope has the `Decision` (None where an open gate was unavailable) and the `Run`. An unknown meter
    is a fault of this wiring and is raised.
    """

    def __init__(
        self,
        app: App,
        *,
        gate: Reserves | Callable[[], Reserves],
        customer: Callable[[Scope], str | None],
        meter: str | Callable[[Scope], str] | None = None,
        quantity: int | Callable[[Scope], int] = 1,
        quantities: Mapping[str, int] | Callable[[Scope], Mapping[str, int]] | None = None,
        metadata: Mapping[str, MetadataValue] | Callable[[Scope], Mapping[str, MetadataValue]] | None = None,
        event_id: Callable[[Scope], str | None] | None = None,
        paths: Sequence[str] | Callable[[Scope], bool] = ("*",),
        reserve: bool = False,
        lifetime_seconds: int | None = None,
        when_unavailable: WhenUnavailable = "closed",
    ) -> None:
        if (meter is None) == (quantities is None):
            raise TypeError("GateMiddleware needs either meter or quantities")
        if isinstance(paths, str):
            raise TypeError("paths is a sequence of paths, or a function of the scope")
        self._app = app
        self._gate = gate
        self._customer = customer
        self._meter = meter
        self._quantity = quantity if quantities is None else None
        self._quantities = quantities
        self._metadata = metadata
        self._event_id = event_id
        self._paths = paths
        self._reserve = reserve
        self._lifetime_seconds = lifetime_seconds
        self._when_unavailable: WhenUnavailable = when_unavailable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = False

        async def watched(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            if self._decides(scope):
                await self._decided(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except Denied as exc:
            if answering:
                raise
            await denial(exc.decision).send(send)

    async def _decided(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            try:
                passed = await stack.enter_async_context(self._passed(scope))
            except SpendgateError as exc:
                await _problem_of(exc).send(send)
                return
            scope["state"] = {**scope.get("state", {}), DECISION: passed.decision, RUN: passed.run}
            await self._app(scope, receive, send)

    def _decides(self, scope: Scope) -> bool:
        if callable(self._paths):
            return self._paths(scope)
        return any(matches(pattern, scope["path"]) for pattern in self._paths)

    def _passed(self, scope: Scope) -> Passed:
        return Passed(
            self._gate() if callable(self._gate) else self._gate,
            self._event(scope),
            reserve=self._reserve,
            lifetime_seconds=self._lifetime_seconds,
            when_unavailable=self._when_unavailable,
        )

    def _event(self, scope: Scope) -> UsageEvent:
        customer_id = self._customer(scope)
        if customer_id is None:
            raise NoCustomer
        return usage_event(
            customer_id,
            _value(self._meter, scope),
            _value(self._quantity, scope),
            quantities=_value(self._quantities, scope),
            event_id=_value(self._event_id, scope),
            metadata=_value(self._metadata, scope),
            traceparent=_traceparent(scope),
        )


class NoCustomer(SpendgateError):
    """The request is for no customer."""


class Problem(msgspec.Struct, frozen=True):
    """Problem details; `more` are members beyond those of the RFC."""

    status: int
    slug: str
    title: str
    detail: str
    retry_after_seconds: int | None = None
    more: dict[str, Any] = {}

    async def send(self, send: Send) -> None:
        """The whole answer."""
        members = {"type": PROBLEMS + self.slug, "title": self.title, "status": self.status, "detail": self.detail}
        body = msgspec.json.encode(members | self.more)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if self.retry_after_seconds is not None:
            headers.append((b"retry-after", str(self.retry_after_seconds).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _problem_of(error: SpendgateError) -> Problem:
    """What the client is told. Raises the error where it is not the client's matter."""
    if isinstance(error, Denied):
        return denial(error.decision)
    if isinstance(error, NoCustomer):
        return Problem(403, "no-customer", "No customer", "this request is for no customer")
    if isinstance(error, InvalidEvent) and not isinstance(error, UnknownMeter):
        return Problem(422, "invalid-input", "The input is not valid", str(error), more={"field": error.field})
    if isinstance(error, Conflict):
        return Problem(409, "conflict", "This event_id was used before", str(error))
    if isinstance(error, NotPrepared):
        return Problem(503, "not-ready", "Spendgate is not ready", str(error), _RETRY_SOON_SECONDS)
    if isinstance(error, GateUnavailable):
        detail = "it is not known whether the contract allows this; try again"
        return Problem(503, "unavailable", "The gate is unavailable", detail, _RETRY_SOON_SECONDS)
    raise error


def denial(decision: Decision) -> Problem:
    """How a denial is answered: for applications that do it themselves, by `await denial(decision).send(send)`."""
    answer = decision.answer()
    status = status_of(decision)
    slug, title = _DENIALS[status]
    told = ("decision", "decision_id", "event_id", "customer_id", "retry_after_seconds", "unblock")
    more = {name: answer[name] for name in told} | {"reason": decision.reason, "limit_id": decision.limit_id}
    return Problem(status, slug, title, decision.message, retry_after_seconds_of(decision), more)


_DENIALS: Final = {
    402: ("limit-exhausted", "A limit of the contract is used up"),
    403: ("stopped", "The contract does not allow this"),
    429: ("throttled", "Not now: wait, then try again"),
}


def _value(given: Any, scope: Scope) -> Any:
    return given(scope) if callable(given) else given


def _traceparent(scope: Scope) -> str | None:
    found = next((value for name, value in scope["headers"] if name.lower() == b"traceparent"), None)
    return found.decode("latin-1") if found is not None else None
