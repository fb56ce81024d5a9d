"""`spendgate api` or `daemon` as it is, but that it dies at named points: `armed_process.py PART`.

A point is armed by a file of its name in the folder SPENDGATE_TEST_POINTS. Whoever of several processes comes to it takes
the file away and is gone, as by `kill -9`, before the next line. On SIGUSR1 a process tells where all of its threads are.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
from pathlib import Path

import spendgate_daemon.relays.kafka.topic
from spendgate_daemon.cli import main
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.usagebox import UsageBox

FOLDER = Path(os.environ["SPENDGATE_TEST_POINTS"])


def come_to(point: str) -> None:
    try:
        (FOLDER / point).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def arm_usagebox() -> None:
    """It has answered, and the store does not know yet."""
    send_usage = UsageBox.send_usage

    @functools.wraps(send_usage)
    async def armed(self, events):
        answer = await send_usage(self, events)
        come_to("usagebox_answered")
        return answer

    UsageBox.send_usage = armed


def arm_store() -> None:
    """It has a batch, and the outbox still has it, too."""
    write = StoreRelay._write

    @functools.wraps(write)
    def armed(self, extracts, cursors):
        write(self, extracts, cursors)
        come_to("stored_not_trimmed")

    StoreRelay._write = armed


class ArmedProducer(spendgate_daemon.relays.kafka.topic.Producer):
    """All of a transaction is sent and not committed; or it is committed, and the store does not know yet."""

    def commit_transaction(self, *arguments):
        come_to("kafka_sent")
        super().commit_transaction(*arguments)
        come_to("kafka_committed")


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    arm_usagebox()
    arm_store()
    spendgate_daemon.relays.kafka.topic.Producer = ArmedProducer
    main()
