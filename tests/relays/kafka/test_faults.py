"""What goes wrong with brokers, topics and ourselves: nothing is lost, and who reads `read_committed` sees nothing twice."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from kafka_servers import has_kafka, running_broker
from kafka_topics import LARGE, let_take, once
from proxy import proxied
from redis_servers import free_port
from requirements import require
from spendgate_daemon.doctor import examine
from spendgate_daemon.relays.kafka.errors import KafkaUnavailable
from spendgate_daemon.settings import Settings
from spendgate_daemon.store.schema import decisions, streams, usage_events

# Brokers and lines are what goes wrong here: one store is enough.
pytestmark = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


def test_a_broker_that_is_away_at_the_start_costs_nothing_but_time(
    fill, own_broker, prefix, relay_of, drain, run, state
):
    own_broker.kill()
    relay, made = relay_of(own_broker.address), fill(10)
    with pytest.raises(KafkaUnavailable, match=r"\.usage"):
        run(relay.run_once())
    assert (state("kafka.usage").pending, state("kafka.usage").delivered) == (10, 0)
    assert "usage" in state("kafka.usage").error
    own_broker.start()
    assert drain(relay) == 10
    assert (state("kafka.usage").delivered, state("kafka.usage").error) == (10, None)
    once(own_broker, prefix, made)


def test_a_broker_that_stops_and_starts_again_gets_everything_once(
    fill, own_broker, prefix, relay_of, drain, run, state
):
    relay, made = relay_of(own_broker.address, size=10), fill(25)
    assert run(relay.run_once()) == 10
    own_broker.kill()
    with pytest.raises(KafkaUnavailable):
        run(relay.run_once())
    assert (state("kafka.usage").attempted, state("kafka.usage").pending) == (10, 5)
    made += fill(5)
    own_broker.start()
    assert drain(relay) == 20
    once(own_broker, prefix, made)


@pytest.fixture
def line(tmp_path):
    """A broker behind a proxy."""
    require("Kafka (fetch_servers.py) or Java", found=has_kafka())
    port = free_port()
    with proxied(port) as between, running_broker(tmp_path, port=port, advertised_port=between.port) as broker:
        between.broker = broker
        yield between


def test_a_slow_line_only_takes_longer(fill, line, prefix, relay_of, drain):
    relay, made = relay_of(line.broker.address, size=10), fill(20)
    line.replies.delay(0.2)
    assert drain(relay) == 20
    once(line.broker, prefix, made)


class Interrupted:
    """A producer whose line is held from the commit on: the broker commits, and nobody hears of it."""

    def __init__(self, producer, line):
        self._producer, self._line = producer, line

    def __getattr__(self, name):
        return getattr(self._producer, name)

    def commit_transaction(self, timeout):
        self._line.replies.hold()
        self._producer.commit_transaction(timeout)


def test_a_commit_that_nobody_hears_of_is_found_out(fill, store, line, prefix, relay_of, drain, run, state):
    relay, made = relay_of(line.broker.address, size=10), fill(30)
    assert run(relay.run_once()) == 10
    relay._topic._producer = Interrupted(relay._topic._producer, line)
    with pytest.raises(KafkaUnavailable):
        run(relay.run_once())
    assert state("kafka.usage").attempted == 10
    line.replies.release()
    assert drain(relay) == 10, "the other ten are there"
    assert state("kafka.usage").delivered == 30
    once(line.broker, prefix, made)


def test_a_missing_topic_is_made_as_the_broker_wants_it(fill, broker, prefix, relay_of, drain):
    made = fill(3)
    assert drain(relay_of(broker.address)) == 3
    topics = AdminClient({"bootstrap.servers": broker.address, "log_level": 0}).list_topics(timeout=20).topics
    assert len(topics[f"{prefix}.usage"].partitions) == 3
    once(broker, prefix, made)


DENIED = AclOperation.CREATE, AclPermissionType.DENY


def acl(kind, name, operation=AclOperation.ALL, permission=AclPermissionType.ALLOW, make=AclBinding):
    return make(kind, name, ResourcePatternType.LITERAL, "User:*", "*", operation, permission)


def test_a_topic_that_may_not_be_made_is_named_and_what_is_for_it_is_held(
    fill, tmp_path, prefix, relay_of, drain, run, state
):
    require("Kafka (fetch_servers.py) or Java", found=has_kafka())
    rights = {
        "authorizer_class_name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow_everyone_if_no_acl_found": "true",
    }
    with running_broker(tmp_path, **rights) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        cluster, topic = (ResourceType.BROKER, "kafka-cluster"), (ResourceType.TOPIC, f"{prefix}.usage")
        rules = [acl(*cluster), acl(*topic), acl(*cluster, *DENIED), acl(*topic, *DENIED)]
        for done in admin.create_acls(rules).values():
            done.result(20)
        relay, made = relay_of(broker.address), fill(5)
        with pytest.raises(
            KafkaUnavailable, match=rf"{prefix}\.usage is missing and can't be made: Authorization failed"
        ):
            run(relay.run_once())
        assert f"{prefix}.usage is missing" in state("kafka.usage").error
        assert state("kafka.usage").pending == 5
        forbidden = [acl(*each, *DENIED, make=AclBindingFilter) for each in (cluster, topic)]
        for done in admin.delete_acls(forbidden).values():
            done.result(20)
        assert drain(relay) == 5
        once(broker, prefix, made)


def test_a_topic_that_is_deleted_on_the_way_is_made_again_and_gets_the_rest(fill, broker, prefix, relay_of, drain, run):
    relay = relay_of(broker.address)
    fill(5)
    assert drain(relay) == 5
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    admin.delete_topics([f"{prefix}.usage"])[f"{prefix}.usage"].result(20)
    rest = fill(5)
    with pytest.raises(KafkaUnavailable):
        run(relay.run_once())
    assert drain(relay) == 5
    once(broker, prefix, rest)


def test_a_message_that_is_too_large_is_dead_holds_up_nobody_and_can_be_sent_later(
    fill, store, broker, prefix, relay_of, drain, state
):
    let_take(broker, f"{prefix}.decisions", 1100)
    relay = relay_of(broker.address, "decisions")
    made = [*fill(20), *fill(1, **LARGE), *fill(20)]
    assert drain(relay) >= 41
    found = state("kafka.decisions")
    assert (found.delivered, found.dead, found.pending) == (40, 1, 0)
    assert "size" in found.error.lower()
    once(broker, prefix, made[:20] + made[21:], "decisions")
    [dead] = [each for each in store.deliveries.of_item([made[20]]) if each.sink == "kafka.decisions"]
    assert dead.state == "dead"
    let_take(broker, f"{prefix}.decisions", 5000)
    assert store.dead_letters.retry("kafka.decisions") == 1
    assert drain(relay_of(broker.address, "decisions")) == 1
    assert (state("kafka.decisions").delivered, state("kafka.decisions").dead) == (41, 0)
    once(broker, prefix, made, "decisions")


def test_a_store_that_lost_events_is_not_taken_for_one_that_sent_them(
    fill, store, broker, prefix, relay_of, drain, caplog
):
    """Its numbers are given again, to other events."""
    lost = fill(10)
    drain(relay_of(broker.address))
    with store.database.writing() as connection:
        connection.execute(streams.update().values(position=5, attempted=5))
        connection.execute(usage_events.update().values(event_id=usage_events.c.event_id + "-other"))
        connection.execute(decisions.update().values(decision_id=decisions.c.decision_id + "-other"))
    assert drain(relay_of(broker.address)) == 5
    once(broker, prefix, [*lost, *(f"{each}-other" for each in lost[5:])])


def test_doctor_names_the_topics_that_are_there_and_those_that_are_missing(fill, broker, prefix, relay_of, drain, run):
    fill(1)
    drain(relay_of(broker.address))
    settings = Settings(kafka_bootstrap=broker.address, kafka_topic_prefix=prefix)
    told = {each.text: each.grade for each in run(examine(settings)) if each.part == "Kafka"}
    missing = "is missing: the daemon makes it, if the broker lets it"
    assert told == {
        f"{broker.address} answers; brokers: 1": "ok",
        f"topic {prefix}.usage, 3 partitions": "ok",
        f"topic {prefix}.decisions {missing}": "warning",
        f"topic {prefix}.guardrail_events {missing}": "warning",
    }
