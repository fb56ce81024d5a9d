"""What applications import is small: checked in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

SERVING = {"litestar", "uvicorn", "starlette", "fastapi", "httptools", "streamlit", "plotly", "tornado"}
STORING = {"sqlalchemy", "alembic", "psycopg", "apscheduler"}
DAEMON = {"spendgate_daemon", "spendgate_dashboard", "pydantic", "httpx", "structlog", "rich", "cyclopts", "yaml"}


@pytest.mark.parametrize(("package", "also_allowed"), [("spendgate", set()), ("spendgate_flags", {"openfeature"})])
def test_importing_it_loads_no_web_framework_no_sql_and_no_streamlit(package, also_allowed):
    script = f"import sys, {package}; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = set(subprocess.check_output([sys.executable, "-c", script], text=True).split())
    assert package in loaded
    assert not loaded & (SERVING | STORING | DAEMON | {"openfeature"}) - also_allowed


def test_the_command_imports_only_what_it_runs():
    script = "import sys, spendgate_daemon.cli; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.check_output([sys.executable, "-c", script], text=True).split())
    assert not loaded & (SERVING | STORING | {"redis", "yaml"})


CONFIGURED = """
from spendgate_daemon import daemon, wiring
from spendgate_daemon.relays.kafka import kafka_loops
from spendgate_daemon.settings import Settings, SettingsError
try:
    print(kafka_loops(Settings(kafka_bootstrap={bootstrap!r}), None, "install", None))
except SettingsError as exc:
    print(exc)
print("confluent_kafka" in sys.modules)
"""


def test_nothing_of_kafka_is_loaded_where_it_is_not_configured():
    script = "import sys\n" + CONFIGURED.format(bootstrap=None)
    assert subprocess.check_output([sys.executable, "-c", script], text=True).split() == ["[]", "False"]


def test_a_missing_extra_is_named():
    script = "import sys\nsys.modules['confluent_kafka'] = None\n" + CONFIGURED.format(bootstrap="127.0.0.1:1")
    told = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert told.startswith("SPENDGATE_KAFKA_BOOTSTRAP is set, and the extra is missing: pip install 'spendgate[kafka]'")


def test_the_command_tells_the_version_of_the_distribution():
    printed = subprocess.check_output([sys.executable, "-m", "spendgate_daemon.cli", "--version"], text=True)
    assert printed.strip() == version("spendgate")
