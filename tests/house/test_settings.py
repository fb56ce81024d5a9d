"""Settings: documented each, refused when unknown or invalid, handed on whole, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings_table import rows
from spendgate_daemon.settings import Settings, SettingsError, variable_of

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)


@pytest.mark.parametrize("row", rows())
def test_each_is_in_the_readme_as_it_is(row):
    assert f"\n{row}\n" in README.read_text(encoding="utf-8")


def test_the_readme_lists_no_other():
    listed = [
        line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(("| `SPEND", "| `UBX"))
    ]
    assert listed == rows()


def test_an_unknown_one_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setenv("SPENDGATE_REDIS_ULR", "redis://nowhere")
    with pytest.raises(SettingsError, match="SPENDGATE_REDIS_ULR is no setting; the nearest is SPENDGATE_REDIS_URL"):
        Settings.read()


def test_all_faults_are_told_at_once(monkeypatch):
    monkeypatch.setenv("SPENDGATE_API_PORT", "eighty")
    monkeypatch.setenv("SPENDGATE_DAEMON_PORT", "65536")
    monkeypatch.setenv("SPENDGATE_USAGEBOX_URL", "localhost:8787")
    with pytest.raises(SettingsError) as caught:
        Settings.read()
    names = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert names == ["SPENDGATE_API_PORT", "SPENDGATE_DAEMON_PORT", "SPENDGATE_USAGEBOX_URL"]


def test_an_invalid_secret_is_not_repeated_in_the_message(monkeypatch):
    monkeypatch.setenv("SPENDGATE_WEBHOOK_SECRET", "hunter2hunter2")
    with pytest.raises(SettingsError) as caught:
        Settings.read()
    assert "SPENDGATE_WEBHOOK_SECRET" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_empty_variable_is_an_absent_one(monkeypatch):
    monkeypatch.setenv("SPENDGATE_REDIS_URL", "")
    assert Settings.read().redis_url is None


def test_a_child_reads_the_same_settings(monkeypatch):
    monkeypatch.setenv("UBX_KEY", "ubx_1")
    monkeypatch.setenv("SPENDGATE_REDIS_URL", "redis://:pa%20ss@host/0")
    monkeypatch.setenv("SPENDGATE_POLL_INTERVAL_SECONDS", "0.5")
    mine = Settings.read()
    for name, text in mine.as_environment().items():
        monkeypatch.setenv(name, text)
    assert Settings.read() == mine


def test_secrets_and_passwords_are_not_shown(monkeypatch):
    monkeypatch.setenv("UBX_KEY", "ubx_hidden")
    monkeypatch.setenv("SPENDGATE_REDIS_URL", "redis://:hidden@host/0")
    monkeypatch.setenv("SPENDGATE_DATABASE_URL", "postgresql://u:hidden@host/db")
    assert "hidden" not in repr(Settings.read())


def test_they_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings.read().api_port = 1


@pytest.mark.parametrize("text", ["whsec_YWJj,whsec_ZGVm", "whsec_YWJj whsec_ZGVm", " whsec_YWJj ,  whsec_ZGVm,"])
def test_several_webhook_secrets_are_taken_while_one_replaces_another(monkeypatch, text):
    monkeypatch.setenv("SPENDGATE_WEBHOOK_SECRET", text)
    settings = Settings.read()
    assert settings.webhook_secrets == ("whsec_YWJj", "whsec_ZGVm")
    assert "YWJj" not in repr(settings)


@pytest.mark.parametrize("text", [",", "whsec_YWJj,ZGVm", "whsec_", "whsec_é", "whsec_YWJj,whsec_@@"])
def test_a_webhook_secret_that_could_not_verify_anything_is_refused(monkeypatch, text):
    monkeypatch.setenv("SPENDGATE_WEBHOOK_SECRET", text)
    with pytest.raises(SettingsError, match="SPENDGATE_WEBHOOK_SECRET") as refused:
        Settings.read()
    assert "YWJj" not in str(refused.value)
