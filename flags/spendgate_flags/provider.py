"""The OpenFeature provider, in the application's process.

    from openfeature import api
    api.set_provider(SpendgateProvider("redis://localhost:6379/0"), domain="billing")
    client = api.get_client(domain="billing")
    client.get_boolean_value("billing.hard-stop", False, EvaluationContext(targeting_key="acme"))

A customer's snapshot is cached until the feed says that it changed, and for `ttl_seconds` at most. What ends by itself ends
on time, because flags are derived from the snapshot at the moment of asking.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import redis
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import (
    ErrorCode,
    FlagNotFoundError,
    GeneralError,
    TargetingKeyMissingError,
    TypeMismatchError,
)
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata
from redis.backoff import NoBackoff
from redis.retry import Retry

from spendgate import GateUnavailable, NotPrepared, ScriptFailed, Snapshot, SyncGate
from spendgate_flags.derive import FLAG_KEYS, HARD_STOP, Flag, flags_of
from spendgate_flags.feed import BLOCK_MS, ChangeFeed

MAX_CUSTOMERS: Final = 50_000
T = TypeVar("T")


class _Cached:
    __slots__ = ("read_at", "snapshot")

    def __init__(self, snapshot: Snapshot, read_at: float) -> None:
        self.snapshot = snapshot
        self.read_at = read_at


class SpendgateProvider(AbstractProvider):
    """`ttl_seconds` bounds how long a value lives that no feed confirms. While Redis is gone, last known values serve for
    `max_stale_seconds`; after that `outage_hard_stop` answers `billing.hard-stop` (None: an error, and the caller's
    default) and other flags are errors. `monotonic` is a clock in seconds."""

    def __init__(
        self,
        redis_url: str,
        *,
        ttl_seconds: float = 30.0,
        max_stale_seconds: float = 300.0,
        outage_hard_stop: bool | None = None,
        timeout_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._gate = SyncGate.from_url(redis_url, timeout_seconds=timeout_seconds)
        self._feed_client = redis.Redis.from_url(
            redis_url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_seconds + BLOCK_MS / 1000,
            socket_connect_timeout=timeout_seconds,
        )
        self._timeout_seconds = timeout_seconds
        self._ttl_seconds = ttl_seconds
        self._max_stale_seconds = max_stale_seconds
        self._outage_hard_stop = outage_hard_stop
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._changes = 0
        self._up = False
        self._feed: ChangeFeed | None = None

    def get_metadata(self) -> Metadata:
        return Metadata(name="spendgate")

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002
        """Start following changes. Raises when Redis does not answer: the SDK then reports the provider's error."""
        self._feed = ChangeFeed(self._feed_client, self._on_changed, self._on_reachable)
        self._feed.start()
        if not self._feed.ready.wait(self._timeout_seconds + 1):
            raise GeneralError("Redis does not answer")

    def shutdown(self) -> None:
        if self._feed is not None:
            self._feed.stop()
            self._feed = None
        self._gate.close()
        self._feed_client.close()

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001  (the SDK's signature)
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(flag_key, default_value, evaluation_context, bool)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve(flag_key, default_value, evaluation_context, str)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve(flag_key, default_value, evaluation_context, int)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._resolve(flag_key, default_value, evaluation_context, float)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        details = self._resolve(flag_key, cast("dict[str, Any]", default_value), evaluation_context, dict)
        return cast("FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]", details)

    def _resolve(
        self, flag_key: str, default_value: T, context: EvaluationContext | None, kind: type
    ) -> FlagResolutionDetails[T]:
        customer_id = context.targeting_key if context is not None else None
        if not customer_id:
            raise TargetingKeyMissingError("the targeting key must be the customer's id")
        try:
            snapshot, age_seconds, stale = self._snapshot(customer_id)
        except (GateUnavailable, NotPrepared, ScriptFailed) as exc:
            if flag_key == HARD_STOP and kind is bool and self._outage_hard_stop is not None:
                value = cast("T", self._outage_hard_stop)
                return FlagResolutionDetails(value=value, variant="outage", reason=Reason.STALE)
            if flag_key in FLAG_KEYS:
                return FlagResolutionDetails(
                    value=default_value,
                    reason=Reason.ERROR,
                    error_code=ErrorCode.PROVIDER_NOT_READY,
                    error_message=f"Redis is gone and nothing is known of this customer: {exc}",
                )
            raise GeneralError(str(exc)) from exc
        flag = flags_of(snapshot, snapshot.now_us + int(age_seconds * 1_000_000)).get(flag_key)
        if flag is None:
            raise FlagNotFoundError(f"customer {customer_id!r} has no flag {flag_key!r}")
        return FlagResolutionDetails(
            value=cast("T", _typed(flag, kind)),
            variant=flag.variant,
            reason=Reason.STALE if stale else Reason[flag.reason],
            flag_metadata=dict(flag.metadata | {"stale": stale}),
        )

    def _snapshot(self, customer_id: str) -> tuple[Snapshot, float, bool]:
        """The customer, how old that knowledge is, and whether Redis is gone."""
        now = self._monotonic()
        with self._lock:
            cached = self._cache.get(customer_id)
            up, changes = self._up, self._changes
            if cached is not None:
                self._cache.move_to_end(customer_id)
        if cached is not None:
            age_seconds = now - cached.read_at
            if up and age_seconds < self._ttl_seconds:
                return cached.snapshot, age_seconds, False
            if not up and age_seconds < self._max_stale_seconds:
                return cached.snapshot, age_seconds, True
        try:
            snapshot = self._gate.snapshot(customer_id)
        except (GateUnavailable, NotPrepared, ScriptFailed):
            if cached is not None and now - cached.read_at < self._max_stale_seconds:
                return cached.snapshot, now - cached.read_at, True
            raise
        with self._lock:
            # A change told while the read was under way may not be in it: such a read is not kept.
            if self._changes == changes:
                self._cache[customer_id] = _Cached(snapshot, now)
                while len(self._cache) > MAX_CUSTOMERS:
                    self._cache.popitem(last=False)
        return snapshot, 0.0, False

    def _on_changed(self, customer_ids: set[str] | None) -> None:
        with self._lock:
            self._changes += 1
            if customer_ids is None:
                self._cache.clear()
            else:
                for customer_id in customer_ids:
                    self._cache.pop(customer_id, None)
        self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=list(FLAG_KEYS)))

    def _on_reachable(self, up: bool) -> None:  # noqa: FBT001
        with self._lock:
            self._up = up
        if up:
            self.emit_provider_ready(ProviderEventDetails())
        else:
            self.emit_provider_stale(ProviderEventDetails(message="Redis does not answer; last known values serve"))


def _typed(flag: Flag, kind: type) -> Any:
    """The value as the asked type; a whole number serves as a float, a switch never as a number."""
    if kind is float and type(flag.value) is int:
        return float(flag.value)
    if type(flag.value) is not kind:
        raise TypeMismatchError(f"{flag.key} is {type(flag.value).__name__}, not {kind.__name__}")
    return flag.value
