"""TCP ports of the parts: taken ones are told before anything starts, and 0 becomes a free one."""

from __future__ import annotations

import socket
from typing import Final

from spendgate_daemon.settings import Settings, variable_of

PARTS: Final = {"api_port": "the API", "dashboard_port": "the dashboard", "sandbox_port": "the sandbox"} | {
    "daemon_port": "the daemon"
}


class PortTaken(Exception):
    """Somebody else listens there."""


def choose_ports(settings: Settings, *, sandbox: bool) -> Settings:
    """Settings with real ports, all free at this moment. Raises PortTaken."""
    chosen: dict[str, int] = {}
    with_sandbox = {name: who for name, who in PARTS.items() if sandbox or name != "sandbox_port"}
    for name, who in with_sandbox.items():
        wanted: int = getattr(settings, name)
        if wanted and wanted in chosen.values():
            raise PortTaken(f"port {wanted} is given twice: choose another for {who} with {variable_of(name)}")
        chosen[name] = _free_port(settings.host, wanted, who, name, set(chosen.values()))
    return settings.model_copy(update=chosen)


def _free_port(host: str, wanted: int, who: str, name: str, others: set[int]) -> int:
    while True:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((host, wanted))
            except OSError as exc:
                raise PortTaken(
                    f"port {wanted} for {who} can't be used ({exc.strerror}): end what listens there, or set "
                    f"{variable_of(name)}"
                ) from exc
            port: int = probe.getsockname()[1]
        if port not in others:
            return port
