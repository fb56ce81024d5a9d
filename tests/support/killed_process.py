"""A process of ours that is killed and started again on its port, and tells all there is to know when it does not come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from acceptance_product import eventually
from redis_servers import free_port

PROGRAM = Path(__file__).with_name("armed_process.py")
START_SECONDS = 60


class KilledProcess:
    """`spendgate api` or `daemon`, with named points."""

    def __init__(self, part: str, environment: dict[str, str], log: Path) -> None:
        self.part, self.log, self.port = part, log, free_port()
        self.environment = environment | {f"SPENDGATE_{part.upper()}_PORT": str(self.port)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-P", PROGRAM, self.part]  # -P: what lies beside it is not for our processes
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def wait_until_it_answers(self) -> None:
        try:
            eventually(self._answers, START_SECONDS, f"{self.part} answers")
        except AssertionError as late:
            late.add_note(self.account())
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"{self.part} ended by itself with {self.process.returncode}"
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def kill_and_start(self) -> None:
        assert not self.is_gone(), f"nobody killed this {self.part}"
        self.kill()
        self.start()

    def is_gone(self) -> bool:
        """Whether it was killed, by us or at a point: no other way to end is right."""
        ended = self.process.poll()
        assert ended in (None, -signal.SIGKILL), f"{self.part} ended with {ended}\n{self.account()}"
        return ended is not None

    def account(self) -> str:
        """What it is doing, what the machine is doing, who has its port, and the end of its log."""
        lines = [f"load: {_text('/proc/loadavg')}", *self._port_lines()]
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)  # its threads' stacks go to its log
            for task in sorted(Path(f"/proc/{self.process.pid}/task").iterdir()):
                told = (_text(task / name).replace("\n", " ") for name in ("comm", "wchan", "stat"))
                lines.append(f"thread {task.name}: {' | '.join(told)}")
            with_stacks = self.log.stat().st_size
            deadline = time.monotonic() + 2
            while self.log.stat().st_size == with_stacks and time.monotonic() < deadline:
                time.sleep(0.02)
        return "\n".join([*lines, self.log.read_text(errors="replace")[-8000:]])

    def _port_lines(self) -> list[str]:
        """Of the kernel's table of connections."""
        table = _text("/proc/net/tcp").splitlines()
        return [f"port {self.port}: {line}" for line in table if f":{self.port:04X} " in line][:20]


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as exc:
        return str(exc)
