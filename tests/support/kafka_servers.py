"""A real Kafka broker for tests: one process that is broker and controller (KRaft), from the jars of `fetch_servers.py`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from redis_servers import free_port

JARS = Path(sys.executable).parent.parent / "kafka"
"""Where `fetch_servers.py` puts what the broker consists of."""

START_SECONDS = 60
STOP_SECONDS = 60
CLUSTER_ID = "c3BlbmRnYXRlLXRlc3RzLQ"


def has_kafka() -> bool:
    """Whether this machine has the jars, and a Java to run them."""
    return JARS.is_dir() and shutil.which("java") is not None


class Broker:
    """Keeps its ports and its data over `stop` and `start`. Clients are told `advertised_port` (None: its own), so that
    a proxy may stand between. `options` are properties of the broker."""

    def __init__(self, directory: Path, *, port: int | None = None, advertised_port: int | None = None, **options: str):
        self.port = port or free_port()
        self.address = f"127.0.0.1:{advertised_port or self.port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        controller = f"127.0.0.1:{free_port()}"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"BROKER://127.0.0.1:{self.port},CONTROLLER://{controller}",
            "advertised.listeners": f"BROKER://{self.address}",
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(directory / "data"),
            "num.partitions": "3",
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # One that was killed has to be given up before it may come back.
            "broker.session.timeout.ms": "1000",
            "broker.heartbeat.interval.ms": "200",
        } | {name.replace("_", "."): value for name, value in options.items()}
        (directory / "broker.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self._run("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c").wait(START_SECONDS)

    def start(self) -> None:
        """Return when it answers."""
        self._process = self._run("kafka.Kafka")
        try:
            AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}).list_topics(
                timeout=START_SECONDS
            )
        except Exception as fault:
            self.kill()
            raise AssertionError((self._directory / "log").read_text()[-5000:]) from fault

    def stop(self) -> None:
        """Let it end in its own time, as an operator does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=STOP_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        java = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", program, *arguments]
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen([*java, str(self._directory / "broker.properties")], stdout=log, stderr=log)


def read_topic(address: str, topic: str, *, committed: bool = True) -> list[Message]:
    """All messages of a topic from its beginning, partition by partition; those of broken transactions only unless
    `committed`."""
    isolation = "read_committed" if committed else "read_uncommitted"
    options = {"group.id": "tests", "isolation.level": isolation, "enable.partition.eof": True, "log_level": 0}
    consumer = Consumer({"bootstrap.servers": address, "enable.auto.commit": False, **options})
    try:
        partitions = consumer.list_topics(topic, timeout=START_SECONDS).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found, ended = [], set()
        while len(ended) < len(partitions):
            message = consumer.poll(START_SECONDS)
            assert message is not None, f"{topic} does not end"
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
        return found
    finally:
        consumer.close()


def ids_of(messages: list[Message]) -> list[str]:
    return [dict(message.headers())["id"].decode() for message in messages]


@contextlib.contextmanager
def running_broker(directory: Path, **options) -> Iterator[Broker]:
    broker = Broker(directory, **options)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
