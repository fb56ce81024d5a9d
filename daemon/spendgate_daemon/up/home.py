"""The home directory of `spendgate up`: what is where, who may use it, and what other commands learn from it.

One `up` at a time owns a home, by a lock that the operating system gives back whatever happens to its holder.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from spendgate_daemon.settings import KEYS, Settings, variable_of

MAX_SOCKET_PATH_BYTES: Final = 100
"""A Unix socket's path has at most 104 bytes on macOS, 108 on Linux."""


class HomeInUse(Exception):
    """Another `spendgate up` runs in this home."""


class Home:
    """`path` is made when it is missing, readable by the owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.redis = self.path / "redis"
        self.logs = self.path / "logs"
        self.keys_env = self.path / "keys.env"
        self.addresses = self.path / "addresses.json"
        self.sandbox = self.path / "sandbox.sqlite3"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.path / 'store.sqlite3'}"

    @property
    def redis_socket(self) -> Path:
        """In the home; in a private directory of the system's temporary one where the home's path is too long."""
        socket = self.path / "redis.sock"
        if len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES:
            return socket
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"spendgate-{os.getuid()}-{name}" / "redis.sock"

    def prepare(self) -> None:
        """Make the directories. Raises OSError where that can't be done safely."""
        for directory in (self.path, self.redis, self.logs, self.redis_socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.redis_socket.parent.stat().st_uid != os.getuid():
            raise PermissionError(f"{self.redis_socket.parent} belongs to somebody else")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the home inside the block. Raises HomeInUse."""
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise HomeInUse(
                    f"another `spendgate up` (process {holder}) runs in {self.path}; stop it, or choose another --home"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def write_addresses(self, addresses: Mapping[str, str]) -> None:
        """Tell other commands, and people, where everything listens. Replaced whole, so a reader never sees half."""
        _write_private(self.addresses, json.dumps(addresses, indent=2) + "\n")

    def read_addresses(self) -> dict[str, str]:
        """Empty when nothing runs here."""
        try:
            found: dict[str, str] = json.loads(self.addresses.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def secrets(self) -> dict[str, str]:
        """The sandbox's key and the webhooks' secret: those in the keys file, else new ones that aren't kept yet."""
        known = read_env(self.keys_env)
        return {
            "UBX_KEY": known.get("UBX_KEY") or f"ubx_{secrets.token_urlsafe(24)}",
            "SPENDGATE_WEBHOOK_SECRET": known.get("SPENDGATE_WEBHOOK_SECRET")
            or f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
        }

    @staticmethod
    def write_env(path: Path, values: Mapping[str, str]) -> None:
        """A file for `set -a; . FILE`, readable by the owner only."""
        _write_private(path, "".join(f"{name}={value}\n" for name, value in values.items()))


def read_env(path: Path) -> dict[str, str]:
    """What `Home.write_env` wrote; empty when there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def with_home(settings: Settings) -> Settings:
    """Fill what is not configured from a running `spendgate up` and its files, so that `spendgate api`, `traffic` or
    `sign-in` beside it need no settings."""
    home = Home(settings.home)
    found: dict[str, Any] = dict(home.read_addresses())
    values: dict[str, Any] = {
        name: found[name]
        for name in ("redis_url", "database_url", "api_url", "dashboard_url")
        if name in found and getattr(settings, name) is None
    }
    if "usagebox_url" in found and settings.usagebox_url is None:
        values |= {"usagebox_url": found["usagebox_url"], "usagebox_is_sandbox": found.get("sandbox") == "yes"}
    known = read_env(home.keys_env)
    for name in (*KEYS, "usagebox_key", "webhook_secret"):
        text = known.get(variable_of(name))
        if text is not None and getattr(settings, name) is None:
            values[name] = SecretStr(text)
    return settings.model_copy(update=values)


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
