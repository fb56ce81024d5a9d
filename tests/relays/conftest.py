"""A store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
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
def postgres():
    """URL of a PostgreSQL of its own. It refuses to run as root, so root runs it as the user that Debian made for it."""
    programs = _postgres_programs()
    require("PostgreSQL", found=programs is not None)
    # Not below pytest's own folder: that is closed to everybody but its owner.
    home = Path(tempfile.mkdtemp(prefix="spendgate-postgres-"))
    as_other = []
    if os.getuid() == 0:
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(home, "postgres", "postgres")

    def run(program: str, *arguments: object) -> None:
        command = [*as_other, programs / program, "-D", home / "data", *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            list(map(str, command)), cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        run("initdb", "-U", "spendgate", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-w", "-l", home / "log", "-o", options, "start")
        yield f"postgresql://spendgate@127.0.0.1:{port}"
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


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
