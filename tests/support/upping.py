"""`spendgate up` as a person runs it: a process of its own, in a directory of its own, on free ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from spendgate_daemon.up import tether_path

START_SECONDS = 90
SCRIPTS = Path(sys.executable).parent


class Up:
    """A running `spendgate up` in `directory`, whose home is the default one there."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.directory = directory
        self.home = directory / ".spendgate"
        self.environment = clean_environment() | environment
        # Tied to this process: a killed test run leaves nothing behind.
        tether = [sys.executable, "-I", "-S", tether_path(), str(os.getpid()), str(int(signal.SIGTERM))]
        command = [*tether, SCRIPTS / "spendgate", "up", "--no-demo", "--no-traffic", *options]
        self._output = (directory / "up.out").open("w+b")
        self.process = subprocess.Popen(command, cwd=directory, env=self.environment, stdout=self._output, stderr=2)

    def output(self) -> str:
        return (self.directory / "up.out").read_text()

    def wait_until_ready(self) -> dict[str, str]:
        """Its addresses."""
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C stops everything" not in self.output():
            assert self.process.poll() is None, f"spendgate up ended with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < deadline, f"spendgate up was not ready in time:\n{self.output()}"
            time.sleep(0.05)
        return json.loads((self.home / "addresses.json").read_text())

    def end(self, number: int) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._output.close()

    def keys(self) -> dict[str, str]:
        lines = (self.home / "keys.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def processes(self) -> dict[int, str]:
        """Processes that name this home in their command or environment: pid to command."""
        found = {}
        wanted = os.fsencode(self.home)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (os.getpid(), self.process.pid):
                continue
            try:
                command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if wanted in command or wanted in environment:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode()
        return found

    def process_of(self, part: str) -> int:
        pattern = re.compile(r"redis-server" if part == "redis" else rf"spendgate_daemon\.cli {part}\b")
        return next(pid for pid, command in self.processes().items() if pattern.search(command))

    def gone(self, seconds: float = 15) -> bool:
        """Whether no process of this home is left within the time."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def clean_environment() -> dict[str, str]:
    """This environment without settings, and with free ports."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("SPENDGATE_", "UBX_"))}
    ports = {f"SPENDGATE_{part}_PORT": "0" for part in ("API", "DASHBOARD", "SANDBOX", "DAEMON")}
    return kept | ports | {"PATH": f"{SCRIPTS}{os.pathsep}{kept['PATH']}"}
