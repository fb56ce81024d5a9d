"""What `spendgate doctor` looks at: every server that the settings name, asked for what it really does."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import redis.asyncio
import redis.exceptions
from sqlalchemy.exc import SQLAlchemyError

from spendgate.keys import INSTALL_KEY, PARTITIONS
from spendgate.restorer import degraded_partitions
from spendgate.transports import redis_client
from spendgate_daemon.documents import DocumentError
from spendgate_daemon.redis_checks import RedisFacts, read_facts
from spendgate_daemon.relays.kafka import look_at_kafka
from spendgate_daemon.settings import Settings, SettingsError, value_of
from spendgate_daemon.store.database import Database
from spendgate_daemon.up.embedded_redis import NoRedisServer, find_server
from spendgate_daemon.usagebox import UsageBox, UsageBoxError
from spendgate_daemon.wiring import policy_document

TIMEOUT_SECONDS: Final = 5.0
Grade = Literal["ok", "warning", "fault"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; a `fault` keeps Spendgate from working as configured."""

    part: str
    grade: Grade
    text: str


async def examine(settings: Settings) -> list[Finding]:
    """All findings. Changes nothing anywhere."""
    groups = await asyncio.gather(
        _python(),
        _redis(settings),
        _store(settings),
        _usagebox(settings),
        _kafka(settings),
        _policy(settings),
        _ports(settings),
    )
    return [finding for group in groups for finding in group]


async def _python() -> list[Finding]:
    return [Finding("Python", "ok", ".".join(map(str, sys.version_info[:3])))]


async def _redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is None:
        try:
            return [Finding("Redis", "ok", f"none configured; `spendgate up` would run {find_server()}")]
        except NoRedisServer as exc:
            return [Finding("Redis", "fault", str(exc))]
    client = redis_client(settings.redis_url, TIMEOUT_SECONDS)
    try:
        facts = await read_facts(client)
        install = await client.hgetall(INSTALL_KEY)
        degraded = await degraded_partitions(client) if install else {}
    except (redis.exceptions.RedisError, OSError) as exc:
        return [Finding("Redis", "fault", f"{_shown(settings.redis_url)} does not answer: {exc}")]
    finally:
        await client.aclose()
    found = [*_facts(facts, acknowledged=settings.redis_policy_acknowledged), _install(install)]
    if degraded:
        how = "after a total loss, run `spendgate rebuild`; a lost tail is mended by the daemon"
        found.append(Finding("installation", "fault", f"{len(degraded)} partitions wait to be restored: {how}"))
    return found


def _facts(facts: RedisFacts, *, acknowledged: bool) -> list[Finding]:
    if facts.is_old:
        remark = " is too old: 6.2 is the oldest supported"
    else:
        remark = "" if facts.has_functions else "; from 7.0 on, a decision costs Redis a third less"
    safe = facts.maxmemory_policy == "noeviction"
    policy = facts.maxmemory_policy or "hidden"
    lossless = facts.appendonly and facts.appendfsync == "always"
    return [
        Finding("Redis", "fault" if facts.is_old else "ok", f"{facts.server} {facts.version}{remark}"),
        Finding(
            "Redis",
            "ok" if safe else "warning" if acknowledged else "fault",
            f"maxmemory-policy {policy}"
            + ("" if safe else ": it must be noeviction, or balances disappear when memory is short"),
        ),
        Finding("Redis", "ok" if lossless else "warning", facts.durability),
    ]


def _install(install: Mapping[Any, Any]) -> Finding:
    if not install:
        return Finding("installation", "warning", "this Redis was never used by Spendgate: start the daemon once")
    partitions = install[b"partitions"].decode()
    if partitions != str(PARTITIONS):
        return Finding("installation", "fault", f"made with {partitions} partitions, this version uses {PARTITIONS}")
    return Finding("installation", "ok", f"{install[b'id'].decode()}, {partitions} partitions")


async def _store(settings: Settings) -> list[Finding]:
    if settings.database_url is None:
        return [Finding("store", "ok", "none configured; `spendgate up` would use SQLite in its home")]
    return await asyncio.to_thread(_read_store, settings.database_url)


def _read_store(url: str) -> list[Finding]:
    try:
        database = Database(url)
        try:
            current, wanted = database.revisions()
        finally:
            database.close()
    except (SQLAlchemyError, ModuleNotFoundError, ValueError) as exc:
        return [Finding("store", "fault", f"{_shown(url)} can't be used: {str(exc).splitlines()[0]}")]
    name = "SQLite" if database.is_sqlite else "PostgreSQL"
    if current is None:
        return [Finding("store", "warning", f"{name}, empty: API or daemon will create the tables at {wanted}")]
    if current != wanted:
        return [Finding("store", "warning", f"{name}, schema {current}: API or daemon will bring it to {wanted}")]
    return [Finding("store", "ok", f"{name}, schema {current}")]


async def _usagebox(settings: Settings) -> list[Finding]:
    if settings.usagebox_url is None:
        return [Finding("UsageBox", "ok", "none configured; `spendgate up` would run the sandbox")]
    key = value_of(settings.usagebox_key)
    stated = settings.stated_dialect
    async with UsageBox(settings.usagebox_url, key, dialect=stated, timeout_seconds=TIMEOUT_SECONDS) as box:
        try:
            dialect = await box.find_dialect()
            policies = await box.policies(None)
        except UsageBoxError as exc:
            alive = "; somebody answers at /health" if await box.health() else ""
            return [Finding("UsageBox", "fault", f"{box.host}: {exc}{alive}")]
    kind = "the sandbox" if settings.usagebox_is_sandbox else "a UsageBox"
    spoken = f"spoken to as {dialect}, told by {box.dialect_told_by}"
    found = [Finding("UsageBox", "ok", f"{kind} at {box.host}, {spoken}")]
    if dialect == "hosted":
        found.append(Finding("UsageBox", "ok", "the hosted API has no corrections: they need a person there"))
    if policies is None:
        file = settings.customers_file
        source = f"its catalog and {file}" if file is not None else "its catalog; SPENDGATE_CUSTOMERS_FILE can say more"
        found.append(Finding("UsageBox", "warning", f"no policies endpoint: plan and status come from {source}"))
    else:
        found.append(Finding("UsageBox", "ok", f"policies endpoint with {len(policies[0])} customers or more"))
    if settings.webhook_secret is None:
        found.append(Finding("UsageBox", "warning", "no SPENDGATE_WEBHOOK_SECRET: changes arrive by polling only"))
    return found


async def _kafka(settings: Settings) -> list[Finding]:
    bootstrap = settings.kafka_bootstrap
    if bootstrap is None:
        return [Finding("Kafka", "ok", "none configured: nothing is sent to Kafka")]
    try:
        seen = await asyncio.to_thread(look_at_kafka, settings, bootstrap)
    except SettingsError as exc:
        return [Finding("Kafka", "fault", str(exc))]
    found = [Finding("Kafka", "fault", f"{bootstrap}: {fault}") for fault in seen.faults]
    if seen.brokers:
        found.append(Finding("Kafka", "ok", f"{bootstrap} answers; brokers: {seen.brokers}"))
    found += [Finding("Kafka", "ok", f"topic {name}, {count} partitions") for name, count in seen.partitions.items()]
    makes = "is missing: the daemon makes it, if the broker lets it"
    return found + [Finding("Kafka", "warning", f"topic {name} {makes}") for name in seen.missing]


async def _policy(settings: Settings) -> list[Finding]:
    name = str(settings.policy_file or "the shipped document")
    try:
        document = await asyncio.to_thread(policy_document, settings)
    except (DocumentError, SettingsError) as exc:
        return [Finding("policy", "fault", str(exc))]
    plans, meters = len(document.plans), len(document.meters)
    return [Finding("policy", "ok", f"{name}: {plans} plans, {meters} meters, digest {document.digest[:12]}")]


async def _ports(settings: Settings) -> list[Finding]:
    return [
        await asyncio.to_thread(_port, settings.host, port, who)
        for who, port in (
            ("API", settings.api_port),
            ("daemon", settings.daemon_port),
            ("dashboard", settings.dashboard_port),
            ("sandbox", settings.sandbox_port),
        )
        if port
    ]


def _port(host: str, port: int, who: str) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return Finding("ports", "warning", f"{port} for {who}: {exc.strerror} (fine if {who} runs already)")
    return Finding("ports", "ok", f"{port} for {who} is free")


def _shown(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
