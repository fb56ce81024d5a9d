"""The client: what UsageBox can be asked and told, in our words and in the dialect that it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import structlog

from spendgate_daemon.usagebox.audit import decode_explanation, decode_period, decode_verification
from spendgate_daemon.usagebox.catalog import SUBSCRIPTIONS_PATH, decode_subscriptions
from spendgate_daemon.usagebox.connection import Connection
from spendgate_daemon.usagebox.dialects import decode_event, decode_totals, dialect_of, encode_event
from spendgate_daemon.usagebox.errors import DialectUnknown, UsageBoxError, UsageBoxRefused, UsageBoxUnavailable
from spendgate_daemon.usagebox.policies import FLAGS_PATH, POLICIES_PATH, decode_policies, encode_flag
from spendgate_daemon.usagebox.values import (
    BatchResult,
    CustomerPolicy,
    Dialect,
    Explanation,
    Period,
    Subscription,
    TotalLine,
    UsageEvent,
    Verification,
)

TIMEOUT_SECONDS: Final = 10.0
MAX_EVENTS: Final = 1000
PAGES_MAX: Final = 10_000
PROBED_ACCOUNT: Final = "spendgate-probe"
"""Nobody's: its totals are empty, and their shape still tells the dialect."""

Decoded = TypeVar("Decoded")

_log = structlog.get_logger("spendgate.usagebox")


class UsageBox:
    """`key` serves the metering API as a bearer and the catalog as `x-api-key`; None where the engine runs alone and has
    no authentication. `dialect` None: found out by the first answer of totals, at the latest before usage is sent."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        dialect: Dialect | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.connection = Connection(url, key, timeout_seconds=timeout_seconds)
        self.dialect = dialect
        self.dialect_told_by = "the configuration" if dialect is not None else "nothing yet"
        self._finding = asyncio.Lock()

    @property
    def host(self) -> str:
        """For display: the address without path or credentials."""
        return self.connection.host

    @property
    def read_rate(self) -> float:
        """Reads a second that it is thought to bear now."""
        return self.connection.pace.rate

    async def find_dialect(self) -> Dialect:
        """The dialect, asking if nobody knows it yet. Raises DialectUnknown when the answers leave it open, and what any
        read raises."""
        async with self._finding:
            if self.dialect is None:
                now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
                try:
                    await self.totals(PROBED_ACCOUNT, now, now + timedelta(hours=1), ("meter_id",))
                except UsageBoxRefused as exc:
                    if exc.status != 404:
                        raise
                    await self._find_catalog()
            if self.dialect is None:
                raise DialectUnknown("UsageBox's totals are neither the hosted API's nor usageDb's; no usage is sent")
            return self.dialect

    async def _find_catalog(self) -> None:
        """Where an account must exist to have totals: only the hosted service has a catalog."""
        if await self.subscriptions() is not None:
            self._learn("hosted", "its catalog, which usageDb hasn't")

    def _learn(self, dialect: Dialect, told_by: str) -> None:
        if self.dialect is None:
            self.dialect, self.dialect_told_by = dialect, told_by
            _log.info("UsageBox's dialect was found", dialect=dialect, told_by=told_by, host=self.host)

    async def send_usage(self, events: Sequence[UsageEvent]) -> BatchResult:
        """`POST /v1/usage/batch`. Sending the same events again is safe within UsageBox's window of duplicates. Raises
        NotInDialect when it has no words for one of them, before anything is sent."""
        if len(events) > MAX_EVENTS:
            raise ValueError(f"a batch has at most {MAX_EVENTS} events")
        dialect = await self.find_dialect()
        body = {"events": [encode_event(event, dialect) for event in events]}
        response = await self.connection.send("send_usage", "POST", "/v1/usage/batch", body)
        try:
            result = msgspec.json.decode(response.content, type=BatchResult)
        except msgspec.MsgspecError as exc:
            raise UsageBoxUnavailable(f"UsageBox answered a batch with what makes no sense: {exc}") from exc
        counts = (result.accepted, result.duplicates, result.conflicts, result.rejected)
        if min(counts) < 0 or sum(counts) != len(events):
            raise UsageBoxUnavailable(f"UsageBox counted {counts} of {len(events)} events")
        return result

    async def totals(
        self,
        account_id: str,
        start: datetime,
        end: datetime,
        group_by: Sequence[str],
        *,
        source: Literal["rollup", "raw"] = "rollup",
        meter_id: str | None = None,
    ) -> list[TotalLine]:
        """Sums over [start, end). `rollup` is cheap but wrong where an edge is not a whole UTC hour; use `raw` there."""
        query = _span(start, end) | {"group_by": ",".join(group_by), "source": source}
        if meter_id is not None:
            query["meter_id"] = meter_id

        def decode(body: Any) -> list[TotalLine]:
            lines = decode_totals(body, tuple(group_by))
            dialect = dialect_of(body)
            if dialect is not None:
                self._learn(dialect, f"the shape of its totals ({'groups' if dialect == 'hosted' else 'lines'})")
            return lines

        return await self._account("totals", account_id, "usage", query, decode)

    async def events(
        self, account_id: str, start: datetime, end: datetime, *, meter_id: str | None = None
    ) -> list[UsageEvent]:
        """Every event over [start, end), in one answer: UsageBox has no pages here, so keep the span short."""
        query = _span(start, end) | ({"meter_id": meter_id} if meter_id is not None else {})

        def decode(body: Any) -> list[UsageEvent]:
            return [decode_event(event) for event in body["events"]]

        return await self._account("events", account_id, "usage/events", query, decode)

    async def explain(self, account_id: str, start: datetime, end: datetime) -> Explanation:
        """What the account's total over [start, end) is made of."""
        return await self._account("explain", account_id, "explain", _span(start, end), decode_explanation)

    async def verify(self, account_id: str, start: datetime, end: datetime) -> Verification:
        """Whether the rollups over [start, end) hold what the raw events do."""
        return await self._account("verify", account_id, "verify", _span(start, end), decode_verification)

    async def period(self, account_id: str, month: str) -> Period:
        """A calendar month, `YYYY-MM`, in UTC."""
        return await self._account("period", account_id, f"periods/{quote(month, safe='')}", {}, decode_period)

    async def policies(self, updated_since: str | None) -> tuple[list[CustomerPolicy], str] | None:
        """Customers whose policy state changed after the cursor (None: all), and the next cursor. None when this
        UsageBox has no such endpoint."""
        query = {"updated_since": updated_since} if updated_since is not None else {}
        response = await self._found("policies", POLICIES_PATH, query)
        return decode_policies(response.content) if response is not None else None

    async def subscriptions(self) -> list[Subscription] | None:
        """All catalog subscriptions; None when this UsageBox has no catalog (the engine alone)."""
        found: list[Subscription] = []
        query: dict[str, str] = {}
        for _ in range(PAGES_MAX):
            response = await self._found("subscriptions", SUBSCRIPTIONS_PATH, query)
            if response is None:
                return None
            page, following = decode_subscriptions(response.content)
            found += page
            if following is None or following == query:
                return found
            query = following
        raise UsageBoxUnavailable(f"UsageBox's subscriptions have no end within {PAGES_MAX} pages")

    async def raise_flag(
        self,
        customer_id: str,
        policy: str,
        *,
        reason: str,
        decision_id: str,
        occurred_at_us: int,
        idempotency_key: str,
    ) -> None:
        """Idempotent per key."""
        body = encode_flag(customer_id, policy, reason, decision_id, occurred_at_us)
        await self.connection.send("raise_flag", "POST", FLAGS_PATH, body, {"idempotency-key": idempotency_key})

    async def clear_flag(self, customer_id: str, policy: str, *, idempotency_key: str) -> None:
        """Idempotent; clearing what is not raised is no error."""
        body = {"customer_id": customer_id, "policy": policy}
        await self.connection.send("clear_flag", "DELETE", FLAGS_PATH, body, {"idempotency-key": idempotency_key})

    async def health(self) -> bool:
        """Whether somebody answers at `/health`."""
        try:
            await self.connection.read("health", "/health", {})
        except UsageBoxError:
            return False
        return True

    async def aclose(self) -> None:
        await self.connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _account(
        self, operation: str, account_id: str, what: str, query: dict[str, str], decode: Callable[[Any], Decoded]
    ) -> Decoded:
        path = f"/v1/accounts/{quote(account_id, safe='')}/{what}"
        response = await self.connection.read(operation, path, query)
        try:
            return decode(msgspec.json.decode(response.content))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as exc:
            raise UsageBoxUnavailable(f"UsageBox answered {operation} that make no sense: {exc!r}") from exc

    async def _found(self, operation: str, path: str, query: dict[str, str]) -> httpx.Response | None:
        """None for a 404."""
        try:
            return await self.connection.read(operation, path, query)
        except UsageBoxRefused as exc:
            if exc.status == 404:
                return None
            raise


def _span(start: datetime, end: datetime) -> dict[str, str]:
    return {name: moment.isoformat().replace("+00:00", "Z") for name, moment in (("from", start), ("to", end))}
