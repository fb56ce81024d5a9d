"""Bringing it all up, in the order in which one part needs another, and telling a person what happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from sqlalchemy.exc import SQLAlchemyError

from spendgate.errors import SpendgateError
from spendgate.restorer import Restorer
from spendgate_daemon.demo import DemoError, seed_demo
from spendgate_daemon.redis_checks import UnsafeRedis
from spendgate_daemon.restore.rebuild import Rebuild
from spendgate_daemon.settings import KEYS, Settings, value_of, variable_of
from spendgate_daemon.sign_in import NoSignIn, sign_in_link
from spendgate_daemon.up.child import ChildFailed
from spendgate_daemon.up.embedded_redis import (
    NoRedisServer,
    find_server,
    redis_part,
    redis_ready,
    redis_url,
    stop_leftover,
)
from spendgate_daemon.up.home import Home, HomeInUse
from spendgate_daemon.up.keys import ensure_keys
from spendgate_daemon.up.parts import api_part, daemon_part, dashboard_part, sandbox_part, traffic_part
from spendgate_daemon.up.ports import PortTaken, choose_ports
from spendgate_daemon.up.supervisor import Supervisor
from spendgate_daemon.wiring import clock_us, open_parts

FAILED: Final = 1
EMBEDDED_DEADLINE_MS: Final = 1_000
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class UpOptions(msgspec.Struct, frozen=True):
    """`demo` and `traffic` happen only where the sandbox is ours: play data has no place in a real UsageBox."""

    demo: bool = True
    traffic: bool = True
    restart: bool = False


async def up(settings: Settings, options: UpOptions, console: Console) -> int:
    """Run the stack until a signal; the exit code: 0 after a signal, 1 when something is in the way or ended."""
    home = Home(settings.home)
    supervisor = Supervisor(home.logs, restart=options.restart, tell=partial(_say, console, "!", "yellow"))
    try:
        home.prepare()
        with home.locked(), _stopping_on_signals(supervisor):
            try:
                await _run(settings.model_copy(update={"home": home.path}), options, home, supervisor, console)
            except asyncio.CancelledError:
                console.print("\nStopping.")
            finally:
                home.addresses.unlink(missing_ok=True)
                await supervisor.stop()
    except (HomeInUse, PortTaken, NoRedisServer, ChildFailed, DemoError, NoSignIn, TimeoutError) as exc:
        return _failed(console, str(exc))
    except (SpendgateError, UnsafeRedis) as exc:
        return _failed(console, str(exc))
    except (OSError, SQLAlchemyError) as exc:
        return _failed(console, f"{type(exc).__name__}: {exc}")
    return 0


def _failed(console: Console, message: str) -> int:
    console.print(f"\n{message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return FAILED


async def _run(settings: Settings, options: UpOptions, home: Home, supervisor: Supervisor, console: Console) -> None:
    started = time.monotonic()
    with_sandbox = settings.usagebox_url is None
    settings = choose_ports(settings, sandbox=with_sandbox)
    console.print(f"Spendgate, in {home.path}", highlight=False, soft_wrap=True)
    settings = await _storage(settings, home, supervisor, console)
    await _restore(settings, console)
    if with_sandbox:
        settings = await _sandbox(settings, options, supervisor, console)
    with _step(console, "daemon, API and dashboard"):
        # The API needs what the daemon prepares in Redis; its readiness waits for that, so both may start at once.
        try:
            async with asyncio.TaskGroup() as group:
                for part in (daemon_part(settings), api_part(settings), dashboard_part(settings)):
                    group.create_task(supervisor.start(part))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    if with_sandbox and options.traffic:
        await supervisor.start(traffic_part(settings))
    home.write_addresses(_addresses(settings))
    link = await sign_in_link(settings, None)
    _tell_addresses(settings, home, link, time.monotonic() - started, console)
    await supervisor.watch()


async def _storage(settings: Settings, home: Home, supervisor: Supervisor, console: Console) -> Settings:
    """Redis, the store, and keys; settings with their URLs."""
    values: dict[str, object] = {}
    if settings.redis_url is None:
        server = find_server()
        with _step(console, f"embedded Redis ({Path(server).name})"):
            values["redis_url"] = url = redis_url(home)
            values["decision_deadline_ms"] = settings.decision_deadline_ms or EMBEDDED_DEADLINE_MS
            if await stop_leftover(url):
                console.print("  stopped the Redis that an earlier run left")
            await supervisor.start(redis_part(home, server), lambda child: redis_ready(child, url))
    if settings.database_url is None:
        values["database_url"] = home.database_url
    with _step(console, "store and keys"):
        database_url = str(values.get("database_url") or settings.database_url)
        keys = await asyncio.to_thread(ensure_keys, home, database_url, lambda: time.time_ns() // 1000)
    for name in KEYS:  # of this store, whatever keys this shell has from elsewhere
        values[name] = SecretStr(keys[variable_of(name)])
    if settings.usagebox_url is None:
        for name in ("usagebox_key", "webhook_secret"):
            values[name] = getattr(settings, name) or SecretStr(keys[variable_of(name)])
    return settings.model_copy(update=values)


async def _restore(settings: Settings, console: Console) -> None:
    """Redis and store are both of this home: what the first has lost is made again before anybody asks for it."""
    async with open_parts(settings) as parts:
        if not await Restorer(parts.control).degraded():
            return
        with _step(console, "what Redis had lost, made again from the store"):
            done = await Rebuild(parts.control, parts.store, clock_us).run()
        console.print(f"  {done.customers:,} customers")


async def _sandbox(settings: Settings, options: UpOptions, supervisor: Supervisor, console: Console) -> Settings:
    with _step(console, "sandbox, an embedded UsageBox"):
        await supervisor.start(sandbox_part(settings))
    url = settings.local_url(settings.sandbox_port)
    if options.demo and settings.usagebox_dialect != "usagedb":  # the engine alone has no customers
        with _progress(console) as progress:
            bar = progress.add_task("demo customers and their history", total=None)
            await seed_demo(
                url, value_of(settings.usagebox_key), now=datetime.now(UTC), progress=partial(_advance, progress, bar)
            )
            progress.update(bar, completed=1, total=1)
    return settings.model_copy(update={"usagebox_url": url, "usagebox_is_sandbox": True})


def _advance(progress: Progress, bar: TaskID, step: str, done: int, total: int) -> None:
    progress.update(bar, description=f"demo: {step}", completed=done, total=total)


def _addresses(settings: Settings) -> dict[str, str]:
    addresses = {
        "api_url": settings.api,
        "dashboard_url": settings.dashboard,
        "daemon_url": settings.local_url(settings.daemon_port),
        "redis_url": settings.redis_url or "",
        "database_url": settings.database_url or "",
        "usagebox_url": settings.usagebox_url or "",
        "sandbox": "yes" if settings.usagebox_is_sandbox else "no",
    }
    return {name: text for name, text in addresses.items() if text}


def _tell_addresses(settings: Settings, home: Home, link: str, seconds: float, console: Console) -> None:
    kind = "sandbox" if settings.usagebox_is_sandbox else "UsageBox"
    lines = [
        ("dashboard", settings.dashboard),
        ("API", settings.api),
        (kind, settings.usagebox_url or ""),
        ("", ""),
        ("sign in, once", link),
        ("keys", str(home.keys_env)),
        ("logs", str(home.logs)),
    ]
    console.print(f"\nReady after {seconds:.1f} s.\n", style="bold green", highlight=False)
    for name, text in lines:
        console.print(f"  {name:14} {text}".rstrip(), highlight=False, markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops everything; the next start goes on from here.", highlight=False)


def _say(console: Console, mark: str, style: str, text: str) -> None:
    console.print(f"{mark} {text}", style=style, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(what):
        yield
    console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
    console.print(f"[green]✓[/] demo customers and their history [dim]{time.monotonic() - started:.1f} s[/]")


@contextlib.contextmanager
def _stopping_on_signals(supervisor: Supervisor) -> Iterator[None]:
    """The first signal cancels the block, a second one ends the children at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked or task is None:
            supervisor.kill()
            return
        asked = True
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
