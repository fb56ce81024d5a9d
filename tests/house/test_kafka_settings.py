"""What may be said of Kafka in the settings, and what `doctor` makes of it."""

from __future__ import annotations

import pytest

from spendgate_daemon.doctor import examine
from spendgate_daemon.relays.kafka import kafka_loops
from spendgate_daemon.relays.kafka.properties import properties_of
from spendgate_daemon.settings import Settings, SettingsError


def test_properties_are_read_from_a_file(tmp_path):
    path = tmp_path / "kafka.properties"
    path.write_text("# TLS\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n")
    expected = {"bootstrap.servers": "k:9092", "security.protocol": "SASL_SSL", "sasl.password": "a=b"}
    assert properties_of("k:9092", path) == expected
    assert properties_of("k:9092", None) == {"bootstrap.servers": "k:9092"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no equals sign", "line 1 is not name=value"),
        ("\n=value", "line 2 is not name=value"),
        ("transactional.id=x", "transactional.id is not to be set"),
        ("no.such.property=x", 'No such configuration property: "no.such.property"'),
        ("security.protocol=x", "security.protocol"),
    ],
)
def test_a_property_that_cannot_be_used_is_named_before_anything_starts(tmp_path, text, fault):
    path = tmp_path / "kafka.properties"
    path.write_text(text)
    with pytest.raises(SettingsError, match=fault):
        kafka_loops(
            Settings(kafka_bootstrap="127.0.0.1:1", kafka_properties_file=path), None, "install", lambda work: work
        )


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"KAFKA_PROPERTIES_FILE: .*missing"):
        properties_of("k:9092", tmp_path / "missing")


def test_a_prefix_that_kafka_would_refuse_is_refused(monkeypatch):
    monkeypatch.setenv("SPENDGATE_KAFKA_TOPIC_PREFIX", "a b")
    with pytest.raises(SettingsError, match="SPENDGATE_KAFKA_TOPIC_PREFIX"):
        Settings.read()


def said(run, settings):
    return [(each.grade, each.text) for each in run(examine(settings)) if each.part == "Kafka"]


def test_doctor_says_that_there_is_none(run, tmp_path):
    assert said(run, Settings(home=tmp_path)) == [("ok", "none configured: nothing is sent to Kafka")]


def test_doctor_says_when_no_broker_answers(run, tmp_path):
    [(grade, text)] = said(run, Settings(home=tmp_path, kafka_bootstrap="127.0.0.1:1"))
    assert grade == "fault"
    assert text.startswith("127.0.0.1:1: ")


def test_doctor_says_when_the_file_cannot_be_used(run, tmp_path):
    settings = Settings(home=tmp_path, kafka_bootstrap="127.0.0.1:1", kafka_properties_file=tmp_path / "missing")
    assert [grade for grade, _ in said(run, settings)] == ["fault"]
