"""`spendgate up`: starts, tells, is refused twice, ends cleanly however it ends, and finds its state again."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from requirements import require
from upping import SCRIPTS, Up, clean_environment


def test_it_tells_addresses_a_sign_in_link_and_where_the_keys_are(stack, addresses):
    shown = stack.output()
    for name in ("dashboard_url", "api_url", "usagebox_url"):
        assert addresses[name] in shown
    assert f"{addresses['dashboard_url']}/signin?token=" in shown
    assert str(stack.home / "keys.env") in shown


def test_keys_are_for_the_owner_only(stack):
    assert stat.S_IMODE((stack.home / "keys.env").stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.home.stat().st_mode) == 0o700
    assert {"SPENDGATE_ADMIN_KEY", "SPENDGATE_DECIDE_KEY", "SPENDGATE_READ_KEY", "SPENDGATE_FLAGS_KEY"} <= set(
        stack.keys()
    )


def test_each_part_gets_only_the_secrets_it_needs(stack):
    require("Linux with /proc", found=Path("/proc/self/environ").exists())
    keys = stack.keys()

    def environment(part: str) -> str:
        return Path(f"/proc/{stack.process_of(part)}/environ").read_text(encoding="utf-8", errors="replace")

    for part in ("api", "daemon", "sandbox"):
        assert keys["SPENDGATE_ADMIN_KEY"] not in environment(part)
    assert keys["UBX_KEY"] in environment("daemon")
    assert keys["UBX_KEY"] not in environment("api")


def test_daemon_tells_its_health_and_metrics(addresses):
    with httpx.Client(base_url=addresses["daemon_url"]) as daemon:
        assert daemon.get("/healthz").text == "ok\n"
        assert daemon.get("/readyz").status_code == 200
        metrics = daemon.get("/metrics").text
        assert daemon.get("/nothing").status_code == 404
    assert 'spendgate_job_runs_total{job="poll",outcome="success"}' in metrics
    assert 'outcome="failure"' not in metrics


def test_a_second_one_in_the_same_home_is_refused(stack):
    second = _run_up(stack.directory, stack.environment)
    assert second.returncode == 1
    assert f"another `spendgate up` (process {stack.process.pid}) runs in" in second.stdout


def test_a_port_in_use_is_told_with_the_setting_to_change(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _run_up(tmp_path, clean_environment() | {"SPENDGATE_API_PORT": str(port)})
    assert done.returncode == 1
    assert f"port {port} for the API can't be used" in done.stdout
    assert "SPENDGATE_API_PORT" in done.stdout


@pytest.mark.timeout(300)
def test_it_survives_every_way_to_end(tmp_path):
    """A signal ends it cleanly; the state is there afterwards; a dead child ends it with a message; `kill -9` leaves no
    orphan; a part is started again where that was asked for."""
    require("Linux with /proc", found=Path("/proc/self/environ").exists())
    first = Up(tmp_path)
    addresses = first.wait_until_ready()
    _put_customer(first, addresses)
    keys = first.keys()
    assert first.end(signal.SIGINT) == 0
    assert first.gone(0), first.processes()
    assert not (first.home / "addresses.json").exists()
    first.close()

    second = Up(tmp_path)
    addresses = second.wait_until_ready()
    assert second.keys() == keys
    assert _customer(second, addresses)["name"] == "Acme"
    os.kill(second.process_of("daemon"), signal.SIGKILL)
    assert second.process.wait(timeout=20) == 1
    assert "daemon was ended by SIGKILL" in second.output()
    assert "the daemon runs" in second.output(), "its last lines are missing"
    assert second.gone(0), second.processes()
    second.close()

    third = Up(tmp_path, "--restart")
    addresses = third.wait_until_ready()
    before = third.process_of("api")
    os.kill(before, signal.SIGKILL)
    _wait_for_another(third, before)
    assert _customer(third, addresses)["name"] == "Acme"
    assert third.end(signal.SIGKILL) == -signal.SIGKILL
    assert third.gone(), third.processes()
    third.close()


def _put_customer(up: Up, addresses: dict[str, str]) -> None:
    headers = {"authorization": f"Bearer {up.keys()['SPENDGATE_ADMIN_KEY']}"}
    body = {"name": "Acme", "plan": "free"}
    httpx.put(f"{addresses['api_url']}/v1/customers/acme", headers=headers, json=body).raise_for_status()


def _customer(up: Up, addresses: dict[str, str]) -> dict[str, object]:
    headers = {"authorization": f"Bearer {up.keys()['SPENDGATE_ADMIN_KEY']}"}
    with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
        response = client.get(f"{addresses['api_url']}/v1/customers/acme", headers=headers)
    response.raise_for_status()
    return response.json()


def _wait_for_another(up: Up, before: int) -> None:
    while "started again" not in up.output() or before in up.processes() or not _parts(up, "api"):
        assert up.process.poll() is None, up.output()
        time.sleep(0.05)


def _parts(up: Up, name: str) -> list[int]:
    return [pid for pid, command in up.processes().items() if command.rstrip().endswith(f"spendgate_daemon.cli {name}")]


def _run_up(directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "spendgate", "up"]
    return subprocess.run(
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_part_that_cannot_start_ends_it_with_the_parts_own_words(tmp_path):
    (tmp_path / "policy.yaml").write_text("version: 1\nmeters: {run: {unit: run}}\nplans: 7\n")
    done = _run_up(tmp_path, clean_environment() | {"SPENDGATE_POLICY_FILE": "policy.yaml"})
    assert done.returncode == 1
    assert "daemon ended with exit code 1" in done.stdout
    assert "line 3: plans" in done.stdout


def test_the_sign_in_link_works_once(stack):
    link = re.search(r"http://\S+/signin\?token=\S+", stack.output())[0]
    first, second = httpx.get(link), httpx.get(link)
    assert first.has_redirect_location
    assert "set-cookie" in first.headers
    assert "set-cookie" not in second.headers
