"""Ends at any moment: nothing is lost, and who reads `read_committed` sees nothing twice."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kafka_topics import LARGE, let_take, once
from spendgate_daemon.relays.kafka.errors import KafkaUnavailable

KILLS = 12


def test_two_at_once_shut_each_other_out_and_double_nothing(fill, broker, prefix, relay_of, drain, run):
    one, other, made = relay_of(broker.address, size=10), relay_of(broker.address, size=10), fill(60)
    assert run(one.run_once()) == 10
    assert run(other.run_once()) == 10
    with pytest.raises(KafkaUnavailable):
        run(one.run_once())
    assert run(one.run_once()) == 10
    with pytest.raises(KafkaUnavailable):
        run(other.run_once())
    assert drain(one) == 30
    once(broker, prefix, made)


def test_what_was_sent_again_is_not_sent_a_third_time_after_a_kill(fill, store, broker, prefix, relay_of, drain, run):
    """The kill is between Kafka's transaction and the store's."""
    let_take(broker, f"{prefix}.decisions", 1100)
    made = [*fill(5), *fill(1, **LARGE)]
    drain(relay_of(broker.address, "decisions"))
    let_take(broker, f"{prefix}.decisions", 5000)
    store.dead_letters.retry("kafka.decisions")
    killed = relay_of(broker.address, "decisions")
    killed._count = kill
    mark, store.deliveries.mark = store.deliveries.mark, kill
    with pytest.raises(Killed):
        run(killed.run_once())
    store.deliveries.mark = mark
    assert drain(relay_of(broker.address, "decisions")) == 0
    once(broker, prefix, made, "decisions")
    [told] = [each for each in store.deliveries.of_item([made[5]]) if each.sink == "kafka.decisions"]
    assert told.state == "delivered"


class Killed(Exception):
    pass


def kill(*_, **__):
    raise Killed


@pytest.mark.timeout(300)
def test_kills_at_any_moment_lose_nothing_and_double_nothing(fill, store, broker, prefix, relay_of, drain):
    made = fill(1500)
    command = [sys.executable, str(Path(__file__).parents[2] / "support/kafka_relay_process.py")]
    url = store.database.engine.url.render_as_string(hide_password=False)
    for number in range(KILLS):
        with subprocess.Popen([*command, url, broker.address, prefix], stdout=subprocess.PIPE, text=True) as process:
            for _ in range(random.Random(number).randint(1, 5)):
                assert process.stdout.readline().strip(), "it runs"
            threading.Event().wait(random.random() * 0.03)  # anywhere in a transaction
            process.kill()
    assert drain(relay_of(broker.address)) > 0, "the kills came before the end"
    once(broker, prefix, made)
