"""Policy state → effective policy → store, then Redis. The one way in for every source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from spendgate.control import Control
from spendgate.limits.check import Grant
from spendgate.policy import EffectivePolicy
from spendgate.reasons import MICRO
from spendgate.state import PolicyState, Status, burn_order
from spendgate_daemon.documents import UnknownBillingDay, UnknownPlan, UnknownZone
from spendgate_daemon.mirror.metrics import APPLIED, BAD_CONTRACTS, UNKNOWN_PLANS
from spendgate_daemon.mirror.policy_book import PolicyBook
from spendgate_daemon.store import Store
from spendgate_daemon.store.customers import Customer

SOURCES: Final = ("customers.yaml", "catalog", "usagebox", "admin")
"""Weakest first: what a stronger source says of a customer is not overwritten by a weaker one."""

MAX_CREDITS: Final = 9 * 10**9

_log = structlog.get_logger("spendgate.mirror.apply")


class CustomerTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of a customer. `version` None: the source has none, and a change makes the next one. `timezone`
    and `billing_anchor_day` are for limits that ask for the contract's; `grants` are credits on top of the cumulative
    total."""

    customer_id: str
    name: str
    plan: str
    status: Status = "active"
    caps: dict[str, int] = {}
    credits_granted_total: int | None = None
    version: int | None = None
    timezone: str | None = None
    billing_anchor_day: int | None = None
    grants: tuple[Grant, ...] = ()


class Applier:
    """`touched` is told the customers whose state was written."""

    def __init__(
        self,
        control: Control,
        store: Store,
        book: PolicyBook,
        now_us: Callable[[], int],
        touched: Callable[[set[str]], None] = lambda _: None,
    ) -> None:
        self._control = control
        self._store = store
        self.book = book
        self._now_us = now_us
        self._touched = touched

    async def install_default(self) -> None:
        """Keep the document in force and its policy for unknown customers, and give the latter to Redis."""
        document, policy = self.book.document, self.book.compile_default()
        await asyncio.to_thread(self._store.policies.save_document, document.digest, document.text, self._now_us())
        await asyncio.to_thread(self._store.policies.save_effective, {policy.digest: policy.encode()})
        await self._control.put_default(policy)

    async def apply(self, source: str, terms: Sequence[CustomerTerms]) -> int:
        """Write what a source says; how many customers changed in Redis. Terms of a plan that the document lacks, or of a
        zone or a billing day that there is not, are logged, counted and passed over; so are credits beyond 9×10^9. The
        customer keeps what was in force."""
        written: set[str] = set()
        for each in terms:
            known = await asyncio.to_thread(self._store.customers.get, each.customer_id)
            before = known.customer if known is not None else None
            if before is not None and SOURCES.index(before.source) > SOURCES.index(source):
                continue
            if await self._apply_one(source, each, before):
                written.add(each.customer_id)
        if written:
            self._touched(written)
            APPLIED.labels(source).inc(len(written))
        return len(written)

    async def _apply_one(self, source: str, terms: CustomerTerms, before: Customer | None) -> bool:
        credits_total = terms.credits_granted_total
        granted = credits_total * MICRO if credits_total is not None else None
        in_all = (granted or 0) + sum(grant.micro_credits for grant in terms.grants)
        if (granted is not None and granted < 0) or in_all > MAX_CREDITS * MICRO:
            _log.error("credits out of range", customer_id=terms.customer_id, micro_credits=in_all)
            return False
        policy = self._compile(terms)
        if policy is None:
            return False
        customer = Customer(
            customer_id=terms.customer_id,
            name=terms.name,
            plan=terms.plan,
            status=terms.status,
            version=_version(terms, before),
            source=source,
            policy_digest=policy.digest,
            updated_at_us=self._now_us(),
            caps=terms.caps,
            granted_micro_credits=granted,
            timezone=terms.timezone,
            billing_anchor_day=terms.billing_anchor_day,
            grants=burn_order(terms.grants),
        )
        if before is not None and _same(customer, before):
            return False
        stronger = before is not None and before.source != source
        if before is not None and not stronger and customer.version < before.version:
            return False
        return await self._write(customer, policy, force=stronger)

    def _compile(self, terms: CustomerTerms | Customer) -> EffectivePolicy | None:
        """None for terms that the document can't be compiled for, which is logged and counted."""
        try:
            return self.book.compile(
                terms.plan, terms.caps, timezone=terms.timezone, anchor_day=terms.billing_anchor_day
            )
        except UnknownPlan as exc:
            UNKNOWN_PLANS.inc()
            _log.error("unknown plan", customer_id=terms.customer_id, error=str(exc))
        except (UnknownZone, UnknownBillingDay) as exc:
            BAD_CONTRACTS.inc()
            _log.error("bad contract", customer_id=terms.customer_id, error=str(exc))
        return None

    async def _write(self, customer: Customer, policy: EffectivePolicy, *, force: bool = False) -> bool:
        """The policy is kept before Redis can cite it; the store's row is last, so that a kill repeats the work."""
        await asyncio.to_thread(self._store.policies.save_effective, {customer.policy_digest: policy.encode()})
        written = await self._control.put_state(customer.customer_id, policy_state_of(customer), policy, force=force)
        await asyncio.to_thread(self._store.customers.save, [customer])
        return written

    async def recompile(self) -> int:
        """Compile all customers again after the document changed or its calendar tables rolled on; how many changed."""
        await self.install_default()
        changed: set[str] = set()
        for customer in await asyncio.to_thread(self._store.customers.all_known):
            policy = self._compile(customer)
            if policy is not None and policy.digest != customer.policy_digest:
                renewed = msgspec.structs.replace(customer, policy_digest=policy.digest, updated_at_us=self._now_us())
                await self._write(renewed, policy)
                changed.add(customer.customer_id)
        if changed:
            self._touched(changed)
        return len(changed)


def policy_state_of(customer: Customer) -> PolicyState:
    """What Redis is told of a customer."""
    return PolicyState(
        policy=customer.policy_digest,
        plan=customer.plan,
        status=_status(customer.status),
        version=customer.version,
        source=customer.source,
        updated_at_us=customer.updated_at_us,
        granted_micro_credits=customer.granted_micro_credits,
        caps=customer.caps,
        grants=customer.grants,
    )


def _version(terms: CustomerTerms, before: Customer | None) -> int:
    if terms.version is not None:
        return terms.version
    if before is None:
        return 1
    return before.version + 1


def _same(new: Customer, old: Customer) -> bool:
    """Whether both say the same of the customer, whenever they said it."""
    told = {"version": 0, "updated_at_us": 0}
    return msgspec.structs.replace(new, **told) == msgspec.structs.replace(old, **told)


def _status(text: str) -> Status:
    if text == "suspended":
        return "suspended"
    return "cancelled" if text == "cancelled" else "active"
