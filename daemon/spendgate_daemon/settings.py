"""Settings: read once from the environment, frozen, unknown names refused.

Every default works on one machine: what has no URL is the embedded part under `home`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SPENDGATE_"
KEYS_FILE = "keys.env"
SECRETS = ("UBX_KEY", "SPENDGATE_WEBHOOK_SECRET")
"""Read from the keys file where the environment does not set them."""

_OTHERS = frozenset(
    {
        "SPENDGATE_ADMIN_KEY",
        "SPENDGATE_DECIDE_KEY",
        "SPENDGATE_READ_KEY",
        "SPENDGATE_FLAGS_KEY",
        "SPENDGATE_USAGE_KEY",
        "SPENDGATE_TEST_REQUIRE",
        "SPENDGATE_EQUIVALENCE_STEPS",
    }
)
"""Names with our prefix that are no settings: keys that commands read, and what the tests look at."""

Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(Exception):
    """The environment can't be used; the message names the variable and what was expected."""


class Settings(BaseSettings):
    """Variables are the names in capitals with the prefix SPENDGATE_, except UBX_KEY."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    environment: Annotated[str, Field(max_length=64)] = "local"
    """Shown to people, so that nobody mistakes one installation for another."""

    home: Path = Path(".spendgate")
    """Folder of the embedded parts, their logs and the local keys."""

    host: str = "127.0.0.1"
    """Address that servers listen on."""

    api_port: Port = 8700
    dashboard_port: Port = 8501
    sandbox_port: Port = 8787
    daemon_port: Port = 8701
    """Health and metrics of the daemon. Port 0, in `spendgate up`, is any free one."""

    api_url: str | None = None
    """Where the dashboard and `traffic` find the API. None: `host` and `api_port`."""

    redis_url: str | None = None
    """`redis://`, `rediss://` or `unix://`. None: the embedded Redis under `home`."""

    database_url: str | None = None
    """`postgresql://` or `sqlite:///`. None: an SQLite file under `home`."""

    usagebox_url: str | None = None
    """None: the sandbox."""

    usagebox_dialect: Literal["hosted", "usagedb"] = "hosted"

    ubx_key: Annotated[SecretStr | None, Field(validation_alias="UBX_KEY")] = None
    """Key for UsageBox. None: the one in `home`/keys.env, else no authentication."""

    webhook_secret: SecretStr | None = None
    """Secret of UsageBox's webhooks, `whsec_...`. None: the one in `home`/keys.env, else webhooks are refused."""

    policy_file: Path | None = None
    """Policy document, watched for changes. None: the one that comes with Spendgate."""

    customers_file: Path | None = None
    """`customers.yaml`, watched for changes. None: no such source."""

    poll_interval_seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How often policy state is polled; webhooks make it sooner."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def sandbox(self) -> bool:
        """Whether UsageBox is the embedded one."""
        return self.usagebox_url is None

    @property
    def redis(self) -> str:
        return self.redis_url or f"unix://{quote(str(redis_socket(self.home)))}"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home.absolute() / 'spendgate.db'}"

    @property
    def usagebox(self) -> str:
        return self.usagebox_url or f"http://127.0.0.1:{self.sandbox_port}"

    @property
    def api(self) -> str:
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104  (told to clients, not listened on)
        return self.api_url or f"http://{host}:{self.api_port}"

    @property
    def keys_file(self) -> Path:
        return self.home / KEYS_FILE


def redis_socket(home: Path) -> Path:
    """Where the embedded Redis listens: under home, or, as a socket's path has at most 107 bytes, in the temporary
    folder under a name made of home's."""
    inside = home.absolute() / "redis.sock"
    if len(os.fsencode(inside)) <= 100:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"spendgate-{os.getuid()}-{digest}.sock"


def read_settings(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Settings from the environment; `given` ones win. Raises SettingsError."""
    variables = dict(os.environ if environment is None else environment)
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHERS
    for name in variables:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{name} is no setting of Spendgate{hint}")
    home = Path(given.get("home") or variables.get("SPENDGATE_HOME") or ".spendgate")
    stored = read_keys(home / KEYS_FILE)
    values: dict[str, Any] = {
        name: variables[f"{PREFIX}{name.upper()}"]
        for name in Settings.model_fields
        if variables.get(f"{PREFIX}{name.upper()}")
    }
    for secret in SECRETS:
        text = variables.get(secret) or stored.get(secret)
        if text:
            values["UBX_KEY" if secret == "UBX_KEY" else "webhook_secret"] = text
    try:
        return Settings(**values | {name: value for name, value in given.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        variable = name if name == "UBX_KEY" else f"{PREFIX}{name.upper()}"
        raise SettingsError(f"{variable}: {first['msg']}") from exc


def read_keys(path: Path) -> dict[str, str]:
    """`NAME=value` lines of a keys file; an absent file has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}
