"""Policy state → effective policy → store, then Redis. The one way in for every source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from spendgate.control import Control, StateWrite
from spendgate.event import MAX_ID_BYTES
from spendgate.policy import EffectivePolicy
from spendgate.reasons import MICRO
from spendgate.state import PolicyState, Status, burn_order, strength
from spendgate_daemon.documents import UnknownBillingDay, UnknownPlan, UnknownZone
from spendgate_daemon.mirror.metrics import APPLIED, BAD_CONTRACTS, CANCELLED, OVERTAKEN, UNKNOWN_PLANS
from spendgate_daemon.mirror.policy_book import PolicyBook
from spendgate_daemon.mirror.terms import CustomerTerms, InvalidTerms, check_terms
from spendgate_daemon.store import Store
from spendgate_daemon.store.customers import Customer

BATCH: Final = 500

_log = structlog.get_logger("spendgate.mirror.apply")


class Change(msgspec.Struct, frozen=True):
    """A customer to be written, with the policy compiled for him."""

    customer: Customer
    policy: EffectivePolicy


class Applier:
    """`touched` is told the customers whose state was written. Customers are read, compared and written a batch at a
    time, so a resync of everybody lets others in between. Other processes write, too, between the reading and the writing:
    Redis and the store each keep the state of the greatest order (see `PolicyState.order`), whoever comes last."""

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
        self._writing = asyncio.Lock()

    async def install_default(self) -> None:
        """Keep the document in force and its policy for unknown customers, and give the latter to Redis."""
        document, policy = self.book.document, self.book.compile_default()
        await asyncio.to_thread(self._store.policies.save_document, document.digest, document.text, self._now_us())
        await asyncio.to_thread(self._store.policies.save_effective, {policy.digest: policy.encode()})
        await self._control.put_default(policy)

    async def apply(self, source: str, terms: Sequence[CustomerTerms]) -> int:
        """Write what a source says; how many customers changed in Redis. Terms of a plan that the document lacks, of a zone
        or a billing day that there is not, and those that `check_terms` refuses are logged, counted and passed over. The
        customer keeps what was in force."""
        changed, terms = 0, list(filter(_makes_sense, terms))
        for first in range(0, len(terms), BATCH):
            changed += await self._apply_batch(source, terms[first : first + BATCH])
        return changed

    async def _apply_batch(self, source: str, terms: Sequence[CustomerTerms]) -> int:
        async with self._writing:
            known = await asyncio.to_thread(self._store.customers.known, [each.customer_id for each in terms])
            changes: list[Change] = []
            for each in terms:
                change = self._change(source, each, known.get(each.customer_id))
                if change is not None:
                    known[each.customer_id] = change.customer
                    changes.append(change)
            written = await self._write(changes)
        if written:
            self._touched(written)
            APPLIED.labels(source).inc(len(written))
        return len(written)

    async def cancel(self, source: str, customer_ids: Sequence[str]) -> int:
        """Cancel customers that are gone from the source which they are known from; how many changed."""
        changed = 0
        for first in range(0, len(customer_ids), BATCH):
            known = await asyncio.to_thread(self._store.customers.known, customer_ids[first : first + BATCH])
            terms = [terms_of(customer, "cancelled") for customer in known.values() if customer.source == source]
            changed += await self._apply_batch(source, terms)
        return changed

    async def cancel_others(self, source: str, named: frozenset[str]) -> int:
        """Cancel customers known from a source that doesn't name them any more; how many changed."""
        known = await asyncio.to_thread(self._store.customers.from_source, source)
        gone = sorted(known - named)
        if gone:
            _log.warning("customers are gone and are cancelled", source=source, customers=len(gone), first=gone[:10])
            CANCELLED.inc(len(gone))
        return await self.cancel(source, gone)

    def _change(self, source: str, terms: CustomerTerms, before: Customer | None) -> Change | None:
        """What has to be written; None when nothing has, or must not be."""
        if before is not None and strength(before.source) > strength(source):
            return None
        credits_total = terms.credits_granted_total
        granted = credits_total * MICRO if credits_total is not None else None
        customer = Customer(
            customer_id=terms.customer_id,
            name=terms.name,
            plan=terms.plan,
            status=terms.status,
            version=_version(terms, before),
            source=source,
            policy_digest=before.policy_digest if before is not None else "",
            updated_at_us=self._time_after(before),
            caps=terms.caps,
            granted_micro_credits=granted,
            timezone=terms.timezone,
            billing_anchor_day=terms.billing_anchor_day,
            grants=burn_order(terms.grants),
        )
        if before is not None and _same(customer, before):
            return None  # whatever the document says of it by now: `recompile` sees to that
        if before is not None and before.source == source and customer.version < before.version:
            return None
        policy = self._compile(terms)
        if policy is None:
            return None
        return Change(msgspec.structs.replace(customer, policy_digest=policy.digest), policy)

    def _time_after(self, before: Customer | None) -> int:
        """What replaces a state of the same version comes after it, though another process's clock may be ahead."""
        return max(self._now_us(), before.updated_at_us + 1 if before is not None else 0)

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

    async def _write(self, changes: Sequence[Change]) -> set[str]:
        """The policies are kept before Redis can cite them; the store's rows are last, so that a kill repeats the work. The
        store doesn't get what Redis refused, because a newer state or a stronger source came meanwhile."""
        if not changes:
            return set()
        policies = {change.customer.policy_digest: change.policy for change in changes}
        encoded = {digest: policy.encode() for digest, policy in policies.items()}
        await asyncio.to_thread(self._store.policies.save_effective, encoded)
        answers = await self._control.put_states(
            [
                StateWrite(change.customer.customer_id, policy_state_of(change.customer), change.policy)
                for change in changes
            ]
        )
        written = {
            change.customer.customer_id: change.customer for change, done in zip(changes, answers, strict=True) if done
        }
        overtaken = [change.customer.customer_id for change, done in zip(changes, answers, strict=True) if not done]
        if overtaken:
            OVERTAKEN.inc(len(overtaken))
            _log.warning("Redis has newer policy states", customers=len(overtaken), first=overtaken[:10])
        await asyncio.to_thread(self._store.customers.save, list(written.values()))
        return set(written)

    async def recompile(self) -> int:
        """Compile all customers again after the document changed or its calendar tables rolled on; how many changed."""
        await self.install_default()
        changed, after = 0, ""
        while True:
            async with self._writing:
                customers = await asyncio.to_thread(self._store.customers.following, after, BATCH)
                changes = [change for customer in customers if (change := self._renewal(customer)) is not None]
                written = await self._write(changes)
            if written:
                self._touched(written)
                changed += len(written)
            if len(customers) < BATCH:
                return changed
            after = customers[-1].customer_id

    def _renewal(self, customer: Customer) -> Change | None:
        policy = self._compile(customer)
        if policy is None or policy.digest == customer.policy_digest:
            return None
        renewed = msgspec.structs.replace(
            customer, policy_digest=policy.digest, updated_at_us=self._time_after(customer)
        )
        return Change(renewed, policy)


def _makes_sense(terms: CustomerTerms) -> bool:
    try:
        check_terms(terms)
    except InvalidTerms as exc:
        BAD_CONTRACTS.inc()
        _log.error("bad contract", customer_id=terms.customer_id[:MAX_ID_BYTES], error=str(exc)[:1000])
        return False
    return True


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


def terms_of(customer: Customer, status: Status) -> CustomerTerms:
    """What the mirror knows of a customer, with another status."""
    granted = customer.granted_micro_credits
    return CustomerTerms(
        customer_id=customer.customer_id,
        name=customer.name,
        plan=customer.plan,
        status=status,
        caps=customer.caps,
        credits_granted_total=granted // MICRO if granted is not None else None,
        version=customer.version,
        timezone=customer.timezone,
        billing_anchor_day=customer.billing_anchor_day,
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
