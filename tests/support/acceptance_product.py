"""The whole product, started as `make up` starts it: free ports, a fresh home, the demo's customers, real clients only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

SPENDGATE = Path(sys.executable).with_name("spendgate")
TRACE = Path(__file__).parents[3] / "shared" / "data" / "AzureLLMInferenceTrace_conv.csv"
START_SECONDS = 90


def eventually(found: Callable[[], object], seconds: float, what: str) -> object:
    """What `found` gives as soon as it is true; fails after the time."""
    deadline = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def read_keys(path: Path) -> dict[str, str]:
    """`NAME=value` lines, as a person reads them."""
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


class Product:
    """A running `spendgate up`."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.log = home.parent / f"{home.name}.log"
        self._started_at = self.log.stat().st_size if self.log.exists() else 0
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPENDGATE_")}
        environment |= {f"SPENDGATE_{part}_PORT": "0" for part in ("API", "DASHBOARD", "SANDBOX", "DAEMON")}
        with self.log.open("ab") as log:
            command = [SPENDGATE, "up", "--home", home, "--no-traffic", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        eventually(self._is_ready, START_SECONDS, "spendgate up is ready")
        self.addresses = json.loads((home / "addresses.json").read_text())
        self.keys = read_keys(home / "keys.env")
        self.api = httpx.Client(base_url=self.addresses["api_url"], timeout=20)
        bearer = {"authorization": f"Bearer {self.keys['UBX_KEY']}", "x-api-key": self.keys["UBX_KEY"]}
        self.sandbox = httpx.Client(base_url=self.addresses["usagebox_url"], headers=bearer, timeout=20)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return b"Ready after" in self.log.read_bytes()[self._started_at :]

    def key(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[f'SPENDGATE_{name}_KEY']}"}

    def get(self, path: str, **query) -> dict:
        response = self.api.get(path, params=query, headers=self.key("ADMIN"))
        assert response.status_code == 200, response.text
        return response.json()

    def every(self, path: str, **query) -> list[dict]:
        """All items of a list."""
        items, cursor = [], None
        while True:
            page = self.get(path, limit=200, **query, **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    def post(self, path: str, body: dict, key: str = "ADMIN") -> httpx.Response:
        return self.api.post(path, json=body, headers=self.key(key))

    def decide(self, customer: str, quantity: int, meter: str = "tokens.output", **fields) -> dict:
        event = {"customer_id": customer, "meter": meter, "quantity": quantity} | fields
        response = self.post("/v1/decisions", event, "DECIDE")
        assert response.status_code == 200, response.text
        return response.json()

    def reserve(self, customer: str, quantity: int, meter: str = "tokens.output", **fields) -> dict:
        event = {"customer_id": customer, "meter": meter, "quantity": quantity} | fields
        response = self.post("/v1/reservations", event, "DECIDE")
        assert response.status_code == 200, response.text
        return response.json()

    def contract(self, customer: str, **terms) -> None:
        """What somebody clicks in UsageBox; returns when the gate knows."""
        response = self.sandbox.put(f"/sandbox/v1/customers/{customer}", json=terms)
        assert response.status_code == 200, response.text
        version = response.json()["version"]
        eventually(lambda: self.version(customer) == version, 10, f"{customer} version {version} is mirrored")

    def version(self, customer: str) -> int | None:
        answer = self.decide(customer, 1, dry_run=True)
        return answer["policy"]["version"]

    def billed(self, customer: str, source: str) -> dict[str, int]:
        """Units per meter that the sandbox has from one source."""
        query = {
            "from": "2020-01-01T00:00:00Z",
            "to": "2100-01-01T00:00:00Z",
            "group_by": "source,meter_id",
            "source": "raw",
        }
        groups = self.sandbox.get(f"/v1/accounts/{customer}/usage", params=query).json()["groups"]
        return {group["meter_id"]: group["sum"] for group in groups if group["source"] == source}

    @property
    def source(self) -> str:
        return f"spendgate/{self.get('/v1/summary')['install_id']}"

    def relayed(self) -> bool:
        """Whether nothing is on its way any more."""
        sync = self.get("/v1/sync")
        waiting = sum(relay["pending"] + relay["attempted"] for relay in sync["relays"])
        return sync["outbox"]["entries"] == 0 and waiting == 0

    def dead_letters(self, customer: str) -> list[dict]:
        """Of a customer's usage, the newest first."""
        letters = self.get("/v1/dead-letters", sink="usagebox.usage")["items"]
        return [letter for letter in letters if letter["customer_id"] == customer]

    def wait_until_relayed(self, seconds: float = 60) -> None:
        eventually(self.relayed, seconds, "everything has reached the store and UsageBox")

    def traffic(self, *options: str) -> dict:
        """Run `spendgate traffic` to its end; its summary."""
        summary = self.home / "summary.json"
        command = [SPENDGATE, "traffic", "--home", self.home, "--json", summary, *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPENDGATE_")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(summary.read_text())

    def children(self) -> dict[str, int]:
        """Process ids of the parts, by the name of their command."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for pid in map(int, listing):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except FileNotFoundError:
                continue
            for part in ("api", "daemon", "sandbox", "dashboard"):
                if part in command or (part == "dashboard" and any("dashboard" in word for word in command)):
                    found[part] = pid
        return found

    def stop(self) -> int:
        self.api.close()
        self.sandbox.close()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)
