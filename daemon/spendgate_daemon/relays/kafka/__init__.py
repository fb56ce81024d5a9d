"""Store → Kafka: usage, decisions and guardrail events, one topic each.

Optional: the library is loaded where `SPENDGATE_KAFKA_BOOTSTRAP` is set, and nowhere else. So this module imports what
needs it inside its functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spendgate_daemon.jobs import Job
from spendgate_daemon.replica import Led
from spendgate_daemon.settings import Settings, SettingsError
from spendgate_daemon.store import Store

if TYPE_CHECKING:
    from spendgate_daemon.relays.kafka.look import Seen


def kafka_loops(settings: Settings, store: Store, install_id: str, led: Led) -> list[Job]:
    """The relays to Kafka, if it is configured; one daemon runs them. Raises SettingsError."""
    if settings.kafka_bootstrap is None:
        return []
    try:
        from spendgate_daemon.relays.kafka.loops import loops  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise _missing(exc) from None
    return loops(settings, settings.kafka_bootstrap, store, install_id, led)


def look_at_kafka(settings: Settings, bootstrap: str) -> Seen:
    """What there is at the address. Raises SettingsError."""
    try:
        from spendgate_daemon.relays.kafka.look import look  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise _missing(exc) from None
    return look(settings, bootstrap)


def _missing(exc: ModuleNotFoundError) -> Exception:
    if exc.name != "confluent_kafka":
        return exc
    return SettingsError("SPENDGATE_KAFKA_BOOTSTRAP is set, and the extra is missing: pip install 'spendgate[kafka]'")
