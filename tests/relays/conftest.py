"""A store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import psycopg
import pytest

from requirements import require
from spendgate_daemon.store import Store


def _postgres_programs() -> Path | None:
    """Folder of initdb and postgres: Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    candidates = [Path(on_path).parent] if on_path else []
    return next((each for each in [*candidates, *folders] if (each / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """URL of a PostgreSQL of its own. It refuses to run as root, so root runs it as the user that Debian made for it."""
    programs = _postgres_programs()
    require("PostgreSQL", found=programs is not None)
    home = tmp_path_factory.mktemp("postgres")
    data = home / "data"
    as_other = []
    if os.getuid() == 0:
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(home, "postgres", "postgres")
        for parent in (home, *home.parents):
            if parent.owner() == "root" and str(parent).startswith(("/tmp/", "/var/")):
                parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(
        [*as_other, programs / "initdb", "-D", data, "-U", "spendgate", "--auth=trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*as_other, programs / "pg_ctl", "-D", data]
    subprocess.run([*control, "-w", "-l", home / "log", "-o", options, "start"], check=True, capture_output=True)
    yield f"postgresql://spendgate@127.0.0.1:{port}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    """An empty store."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'store.db'}"
    else:
        server = request.getfixturevalue("postgres")
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = f"{server}/{name}"
    opened = Store.open(url)
    yield opened
    opened.close()
