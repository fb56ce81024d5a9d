"""How to reach Kafka: the address, and a file with what else the client has to know (TLS, SASL), in librdkafka's words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spendgate_daemon.settings import SettingsError

OURS: Final = frozenset(
    {
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.idempotence",
        "group.id",
        "isolation.level",
        "message.timeout.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)
"""What the promises of the relay rest on."""


def properties_of(bootstrap: str, path: Path | None) -> dict[str, str]:
    """Raises SettingsError for a file that can't be read, or that sets one of OURS."""
    properties = {"bootstrap.servers": bootstrap}
    if path is None:
        return properties
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"SPENDGATE_KAFKA_PROPERTIES_FILE: {exc}") from exc
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"SPENDGATE_KAFKA_PROPERTIES_FILE: line {number} is not name=value")
        if name.strip() in OURS:
            raise SettingsError(f"SPENDGATE_KAFKA_PROPERTIES_FILE: {name.strip()} is not to be set")
        properties[name.strip()] = value.strip()
    return properties
