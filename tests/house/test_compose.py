"""The Compose file and the image, read as a machine would: no engine is needed to see that they are safe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from spendgate_daemon.settings import Settings, refuse_unknown, variable_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]
OURS = ("api", "daemon", "dashboard")


def test_everything_is_there():
    assert set(SERVICES) == {"redis", "postgres", "kafka", "api", "daemon", "dashboard", "prometheus"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_checked_restarted_and_confined(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]


def test_redis_loses_nothing_and_never_evicts():
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"


def test_kafka_is_there_only_for_who_asks_for_it():
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["kafka"]
    assert not [name for name in OURS if "kafka" in SERVICES[name].get("depends_on", ())]


def test_ports_are_published_on_the_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_secret_is_in_the_file_and_each_is_required():
    for name in ("REDIS_PASSWORD", "POSTGRES_PASSWORD", "UBX_KEY", "SPENDGATE_WEBHOOK_SECRET"):
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", TEXT)
        assert uses
        assert all(use == f"${{{name}:?set it in .env}}" for use in uses)
    assert not re.search(r"(?i)(password|secret|key):\s*[A-Za-z0-9]{8,}\s*$", TEXT)


def test_every_variable_is_in_the_example_file_and_every_setting_is_known():
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", TEXT)) | {"SPENDGATE_READ_KEY"}
    assert used == named
    for name in OURS:
        refuse_unknown(SERVICES[name]["environment"])


def test_each_of_our_parts_runs_its_command_and_gets_only_its_secrets():
    for name in OURS:
        assert SERVICES[name]["command"] == [name]
    assert "UBX_KEY" not in SERVICES["api"]["environment"]
    assert set(SERVICES["dashboard"]["environment"]) == {"SPENDGATE_API_URL"}


def test_health_checks_and_scrapes_use_the_default_ports():
    defaults = {name: Settings.model_fields[f"{name}_port"].default for name in OURS}
    for name, port in defaults.items():
        assert f"http://127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
    scrapes = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    targets = {target for job in scrapes for each in job["static_configs"] for target in each["targets"]}
    assert targets == {f"daemon:{defaults['daemon']}", f"api:{defaults['api']}"}


def test_the_image_runs_as_a_user_without_rights():
    final = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[-1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    refuse_unknown(re.findall(r"(SPENDGATE_[A-Z_]+)=", final))
    assert variable_of("host") in final
    assert not re.search(r"(?i)(password|secret|key)=", final)


def test_the_image_and_make_use_the_same_uv():
    versions = {re.search(r"uv==(\S+)", (ROOT / "Dockerfile").read_text())[1]}
    versions.add(re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())[1])
    assert len(versions) == 1
