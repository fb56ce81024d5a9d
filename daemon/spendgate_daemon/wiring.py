"""Everything is built here, from one Settings, and closed in the reverse order. Nothing connects at import."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from spendgate.client import Gate
from spendgate.control import Control, Install
from spendgate.restorer import Restorer
from spendgate_daemon.api import Services
from spendgate_daemon.api.metrics import watch_outage
from spendgate_daemon.books.read import Reader
from spendgate_daemon.books.reconcile import Reconcile
from spendgate_daemon.corrections import Asked, Corrections, CorrectionsBehind
from spendgate_daemon.documents import PolicyDocument, load_default, load_document
from spendgate_daemon.jobs import Job
from spendgate_daemon.libraries import forget_libraries
from spendgate_daemon.metrics import OUTBOX_ENTRIES
from spendgate_daemon.mirror.apply import Applier
from spendgate_daemon.mirror.customers_file import CustomersFile
from spendgate_daemon.mirror.policy_book import DocumentFile, PolicyBook
from spendgate_daemon.mirror.poll import Poll
from spendgate_daemon.mirror.resync import Resync
from spendgate_daemon.mirror.totals import UsageTotals
from spendgate_daemon.mirror.webhooks import WebhookReceiver
from spendgate_daemon.redis_checks import refuse_eviction
from spendgate_daemon.relays.advice import Advice
from spendgate_daemon.relays.batching import Batching
from spendgate_daemon.relays.burn import BurnMeter
from spendgate_daemon.relays.duplicates import ACTOR, LateDuplicates, TakeBack
from spendgate_daemon.relays.kafka import kafka_loops
from spendgate_daemon.relays.reserved import LostReservations, ReservedCheck
from spendgate_daemon.relays.sinks import SinkGauges
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.relays.sweep import OverrideExpiry, Sweep
from spendgate_daemon.relays.usagebox_policies import UsageBoxPolicyRelay
from spendgate_daemon.relays.usagebox_usage import UsageBoxUsageRelay
from spendgate_daemon.relays.verifier import Verifier
from spendgate_daemon.replica import RENEW_SECONDS, TTL_SECONDS, Led, Replica
from spendgate_daemon.restore import installs
from spendgate_daemon.restore.metrics import DEGRADED
from spendgate_daemon.restore.tails import LostTails
from spendgate_daemon.settings import Settings, SettingsError, value_of
from spendgate_daemon.store import Store
from spendgate_daemon.usagebox import UsageBox

GATE_TIMEOUT_SECONDS: Final = 5.0
DECISION_DEADLINE_MS: Final = 20
"""For the daemon's own reads; an application chooses its own deadline."""

USAGE_BATCHING: Final = Batching(size=500, age_seconds=0.25)

_log = structlog.get_logger("spendgate")


class Parts(msgspec.Struct, frozen=True):
    """What every process of ours needs."""

    gate: Gate
    control: Control
    store: Store
    install: Install


class Every(msgspec.Struct, frozen=True):
    """A job on the schedule."""

    job: Job
    interval_seconds: float


class DaemonParts(msgspec.Struct, frozen=True):
    """`loops` run as fast as there is work, `schedule` by the clock. `store_relay` says whether the daemon is ready."""

    parts: Parts
    loops: tuple[Job, ...]
    schedule: tuple[Every, ...]
    store_relay: Job


def clock_us() -> int:
    """Unix microseconds, UTC."""
    return time.time_ns() // 1000


def clock() -> datetime:
    """Now, UTC."""
    return datetime.now(UTC)


def policy_document(settings: Settings) -> PolicyDocument:
    """The configured document, or the shipped one. Raises DocumentError, and SettingsError for an unreadable file."""
    if settings.policy_file is None:
        return load_default()
    try:
        text = settings.policy_file.read_bytes()
    except OSError as exc:
        raise SettingsError(f"SPENDGATE_POLICY_FILE: {exc}") from exc
    return load_document(text, str(settings.policy_file))


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Connect to Redis and the store, and bring both up to date. Raises GateUnavailable, UnsafeRedis, NotPrepared."""
    redis_url, database_url = required(settings)
    async with AsyncExitStack() as stack:
        control = Control.from_url(redis_url)
        stack.push_async_callback(control.aclose)
        gate = await stack.enter_async_context(Gate.from_url(redis_url, timeout_seconds=GATE_TIMEOUT_SECONDS))
        await control.ping()
        await refuse_eviction(control.redis, acknowledged=settings.redis_policy_acknowledged)
        store = await asyncio.to_thread(Store.open, database_url)
        stack.push_async_callback(asyncio.to_thread, store.close)
        install = await installs.prepare(control, store, settings.outage_slots)
        yield Parts(gate, control, store, install)


def open_decider(settings: Settings) -> Gate:
    """The gate of the decision path, with its deadline and its journal. Raises SettingsError where that can't be written."""
    redis_url, _ = required(settings)
    folder = settings.outage_journal or settings.home / "journal"
    try:
        return Gate.from_url(
            redis_url, timeout_seconds=(settings.decision_deadline_ms or DECISION_DEADLINE_MS) / 1000, journal=folder
        )
    except OSError as exc:
        raise SettingsError(f"SPENDGATE_OUTAGE_JOURNAL: {folder} can't be written: {exc.strerror}") from exc


def required(settings: Settings) -> tuple[str, str]:
    """URLs of Redis and the store. Raises SettingsError where one is missing."""
    if settings.redis_url is None or settings.database_url is None:
        missing = "SPENDGATE_REDIS_URL" if settings.redis_url is None else "SPENDGATE_DATABASE_URL"
        raise SettingsError(f"{missing} is not set, and no `spendgate up` is running in {settings.home}")
    return settings.redis_url, settings.database_url


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """What the API serves."""
    async with (
        open_parts(settings) as parts,
        open_decider(settings) as decider,
        open_reconcile(settings, parts) as reconcile,
    ):
        if decider.outage is not None:
            watch_outage(decider.outage)
        yield Services(
            gate=parts.gate,
            decider=decider,
            control=parts.control,
            store=parts.store,
            webhooks=WebhookReceiver(settings.webhook_secrets, parts.control) if settings.webhook_secrets else None,
            reconcile=reconcile,
            install_id=parts.install.id,
            environment=settings.environment,
            sandbox=settings.usagebox_is_sandbox,
        )


@asynccontextmanager
async def open_reconcile(settings: Settings, parts: Parts) -> AsyncIterator[Reconcile]:
    """Comparing the books, with a UsageBox client of its own where one is configured."""
    async with AsyncExitStack() as stack:
        usagebox = None
        if settings.usagebox_url is not None:
            usagebox = _usagebox(settings, settings.usagebox_url)
            stack.push_async_callback(usagebox.aclose)
        yield reconcile_of(parts, usagebox)


def reconcile_of(parts: Parts, usagebox: UsageBox | None) -> Reconcile:
    reader = Reader(parts.gate, parts.control, parts.store, usagebox, own_source(parts), clock_us)
    return Reconcile(reader, parts.control, parts.store, usagebox, clock_us)


def take_back(control: Control, store: Store) -> TakeBack:
    """Corrects a debit to nothing."""
    corrections = Corrections(control, store, wait_seconds=0)

    async def correct(correction_id: str, decision_id: str, meter: str, reason: str) -> bool:
        try:
            await corrections.make(Asked(correction_id, decision_id, meter, 0, ACTOR, reason))
        except CorrectionsBehind:
            return False
        return True

    return correct


def own_source(parts: Parts) -> str:
    """How UsageBox tells our usage from everybody else's."""
    return f"spendgate/{parts.install.id}"


@asynccontextmanager
async def open_daemon(settings: Settings) -> AsyncIterator[DaemonParts]:
    """The daemon's jobs, ready to run."""
    document = policy_document(settings)
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings))
        gate, control, store = parts.gate, parts.control, parts.store
        await forget_libraries(control.redis)
        replica = Replica(store)
        await replica.renew_once()
        stack.push_async_callback(replica.leave)
        led = replica.led
        advice = Advice(gate, control, store, BurnMeter(), owned=replica.partitions)
        applier = Applier(control, store, PolicyBook(document, clock), clock_us, advice.touch)
        await applier.install_default()
        store_relay = StoreRelay(control, store, [advice.touch], replica.partitions)
        relay = Job("store-relay", store_relay.run_once)
        loops = [
            relay,
            Job(
                "lost-tails",
                LostTails(control, store, store_relay, clock_us).run_once,
                deadline_seconds=900,
                idle_seconds=0.2,
            ),
            Job("advice", advice.run_once),
            Job("verifier", led(Verifier(store).run_once), idle_seconds=0.2),
            Job("late-duplicates", led(LateDuplicates(store, take_back(control, store)).run_once), idle_seconds=0.5),
        ]
        loops += kafka_loops(settings, store, parts.install.id, led)
        reserved = ReservedCheck(control)
        lost = LostReservations(control, store, reserved, clock_us)
        schedule = [
            Every(Job("replica", replica.renew_once, deadline_seconds=TTL_SECONDS), RENEW_SECONDS),
            Every(Job("reserved", led(reserved.run_once)), 5),
            Every(Job("lost-reservations", led(lost.run_once)), 15),
            Every(Job("sweep", led(Sweep(control).run_once)), 1),
            Every(Job("override-expiry", led(OverrideExpiry(control, store, clock_us).run_once)), 1),
            Every(Job("sinks", SinkGauges(store, clock_us).run_once), 15),
            Every(Job("outbox-size", lambda: _measure_outbox(control)), 5),
            Every(Job("degraded", _degraded_job(control)), 5),
            Every(Job("policy-document", led(_document_job(settings, applier)), deadline_seconds=900), 2),
            Every(Job("calendar", led(applier.recompile), deadline_seconds=900), 3600),
        ]
        if settings.customers_file is not None:
            file = CustomersFile(settings.customers_file, applier)
            schedule.append(Every(Job("customers-file", led(file.read_once)), 2))
        usagebox = None
        if settings.usagebox_url is not None:
            usagebox = _usagebox(settings, settings.usagebox_url)
            stack.push_async_callback(usagebox.aclose)
            more_loops, more_jobs = _usagebox_jobs(settings, parts, usagebox, applier, advice, led)
            loops += more_loops
            schedule += more_jobs
        schedule.append(Every(Job("books", led(reconcile_of(parts, usagebox).run_once), deadline_seconds=300), 10))
        yield DaemonParts(parts, tuple(loops), tuple(schedule), relay)


def _usagebox(settings: Settings, url: str) -> UsageBox:
    return UsageBox(url, value_of(settings.usagebox_key), dialect=settings.stated_dialect)


def _usagebox_jobs(
    settings: Settings, parts: Parts, usagebox: UsageBox, applier: Applier, advice: Advice, led: Led
) -> tuple[list[Job], list[Every]]:
    gate, control, store = parts.gate, parts.control, parts.store
    source = own_source(parts)
    poll = Poll(control, gate, store, usagebox, applier, clock_us)
    totals = UsageTotals(
        control,
        gate,
        store,
        usagebox,
        source,
        clock_us,
        advice.touch,
        interval_seconds=settings.totals_interval_seconds,
        within_seconds=settings.totals_within_seconds,
    )
    resync = Resync(store, usagebox, applier, clock_us)
    usage = UsageBoxUsageRelay(store, usagebox, source, clock_us, USAGE_BATCHING)
    loops = [
        Job("usagebox-usage", led(usage.run_once), idle_seconds=0.05),
        Job("usagebox-policies", led(UsageBoxPolicyRelay(store, usagebox, clock_us).run_once), idle_seconds=0.05),
        Job("hints", led(poll.follow_hints_once), idle_seconds=0.02),
    ]
    schedule = [
        Every(Job("poll", led(poll.poll_once), deadline_seconds=300), settings.poll_interval_seconds),
        Every(Job("resync", led(resync.run_once), deadline_seconds=900), 3600),
        Every(Job("usage-totals", led(totals.read_once), deadline_seconds=300), settings.totals_interval_seconds),
    ]
    return loops, schedule


def _document_job(settings: Settings, applier: Applier) -> Callable[[], Awaitable[int]]:
    """Put a changed policy document in force; compile all customers again once at the start."""
    file = DocumentFile(settings.policy_file) if settings.policy_file is not None else None
    due = True  # also after a recompile that failed

    async def run() -> int:
        nonlocal due
        document = await asyncio.to_thread(file.changed) if file is not None else None
        due |= document is not None and applier.book.replace(document)
        if not due:
            return 0
        recompiled = await applier.recompile()
        due = False
        return recompiled

    return run


async def _measure_outbox(control: Control) -> int:
    OUTBOX_ENTRIES.set(await control.outbox_length())
    return 1


def _degraded_job(control: Control) -> Callable[[], Awaitable[int]]:
    """Measure what Redis has lost; it is told when it changes."""
    told = 0

    async def run() -> int:
        nonlocal told
        number = len(await Restorer(control).degraded())
        DEGRADED.set(number)
        if number > told:
            _log.error("partitions of Redis wait to be restored; after a total loss: spendgate rebuild", number=number)
        told = number
        return number

    return run
