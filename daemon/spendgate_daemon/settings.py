"""Settings: read once from the environment, frozen, and refused as a whole when one of them isn't known.

A mistyped variable that is silently ignored is a limit that silently doesn't hold, so any `SPENDGATE_*` name that is
no setting is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AnyHttpUrl, Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

PREFIX: Final = "SPENDGATE_"
NO_SETTINGS: Final = ("SPENDGATE_TEST_", "SPENDGATE_EQUIVALENCE_")
"""Names that belong to the test suite."""

KEYS: Final = ("admin_key", "decide_key", "read_key", "flags_key")

Port = Annotated[int, Field(ge=0, le=65535)]
_http_url: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl)


class SettingsError(Exception):
    """The environment holds an unknown or invalid setting, or lacks one; the message names it and what to do."""


class Settings(BaseSettings):
    """Every setting with its unit, its default and what None means. Read with `Settings.read()`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True, populate_by_name=True)

    environment: str = Field("local", max_length=64, description="Name of this installation, shown on every page.")
    home: Path = Field(
        Path(".spendgate"), description="Directory of `spendgate up`: Redis data, store, sandbox, keys, logs."
    )
    host: str = Field(
        "127.0.0.1", description="Address that API, daemon, sandbox and dashboard listen on; `0.0.0.0` in a container."
    )
    api_port: Port = Field(8700, description="TCP port of the API; 0 lets `spendgate up` choose a free one.")
    dashboard_port: Port = Field(8501, description="TCP port of the dashboard; 0 as above.")
    sandbox_port: Port = Field(8787, description="TCP port of the sandbox; 0 as above.")
    daemon_port: Port = Field(8701, description="TCP port of the daemon's health and metrics; 0 as above.")
    redis_url: str | None = Field(
        None,
        repr=False,
        description="`redis://`, `rediss://` or `unix://` URL. None: the embedded Redis of `spendgate up`.",
    )
    redis_policy_acknowledged: bool = Field(
        default=False,
        description="Start although Redis may evict keys or hides its `maxmemory-policy` (managed services).",
    )
    database_url: str | None = Field(
        None, repr=False, description="`postgresql://` or `sqlite:///` URL of the store. None: SQLite in the home."
    )
    kafka_bootstrap: str | None = Field(
        None,
        description="`host:port,...` of Kafka brokers that get usage, decisions and guardrail events. None: no Kafka.",
    )
    kafka_topic_prefix: str = Field(
        "spendgate",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="First part of the names of Kafka topics: `PREFIX.usage`, `.decisions`, `.guardrail_events`.",
    )
    kafka_properties_file: Path | None = Field(
        None,
        description="File of `name=value` lines with what else the Kafka client needs (TLS, SASL), in librdkafka's words. "
        "None: nothing.",
    )
    usagebox_url: str | None = Field(
        None, description="Base URL of UsageBox. None: the sandbox of `spendgate up`, or no UsageBox for a lone daemon."
    )
    usagebox_dialect: Literal["auto", "hosted", "usagedb"] = Field(
        "auto",
        description="Which form of the metering API it speaks: the hosted service's, usageDb's own, or `auto`: the shape of "
        "its answers tells, and no usage is sent before they do.",
    )
    usagebox_is_sandbox: bool = Field(default=False, description="Its data is play data: pages say SANDBOX.")
    usagebox_key: SecretStr | None = Field(
        None, validation_alias="UBX_KEY", description="Key for UsageBox. None: it asks for none."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret (`whsec_...`) of UsageBox's webhooks; while it is rotated, several with commas between, and each "
        "is taken. None: they are refused, and polling remains.",
    )
    poll_interval_seconds: float = Field(
        5.0, ge=0.1, le=3600, description="Seconds between polls of UsageBox's policies; webhooks make it sooner."
    )
    totals_interval_seconds: float = Field(
        15.0, ge=0.1, le=3600, description="Seconds between rounds of reading usage recorded outside the gate."
    )
    totals_within_seconds: float = Field(
        3600.0,
        ge=60,
        le=86_400,
        description="Seconds within which everybody's usage outside the gate is read, if UsageBox bears it; who is active or "
        "close to a limit comes sooner.",
    )
    policy_file: Path | None = Field(None, description="Policy document, watched for changes. None: the shipped one.")
    customers_file: Path | None = Field(
        None, description="Customers for a UsageBox without policies, watched for changes. None: there is no such file."
    )
    api_url: str | None = Field(
        None, description="Where the dashboard and commands reach the API. None: this machine at the API's port."
    )
    dashboard_url: str | None = Field(
        None, description="Where people reach the dashboard, for sign-in links. None: this machine at its port."
    )
    decision_deadline_ms: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Milliseconds that Redis has to decide; beyond, the API follows the outage rule. None: 20, or 1000 with "
        "the embedded Redis of `spendgate up`, which shares this machine and its disk with everything else.",
    )
    outage_slots: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Processes that share the outage allowances; fixed by the first start. None: what is there, or 8.",
    )
    outage_journal: Path | None = Field(
        None,
        description="Directory for what passes in an outage, on a disk that survives. None: `journal` in the home.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    admin_key: SecretStr | None = Field(
        None, description="API key for `sign-in`, and for your own calls. None: the one in the home's `keys.env`."
    )
    decide_key: SecretStr | None = Field(None, description="API key for `traffic`. None: the one in `keys.env`.")
    read_key: SecretStr | None = Field(
        None, description="API key with which `traffic` lists customers. None: the one in `keys.env`."
    )
    flags_key: SecretStr | None = Field(
        None, description="API key for OFREP and flagd clients; Spendgate's own commands don't use it."
    )

    @field_validator("usagebox_url", "api_url", "dashboard_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        _http_url.validate_python(url)
        return url.rstrip("/")

    @field_validator("webhook_secret")
    @classmethod
    def _is_standard(cls, secret: SecretStr | None) -> SecretStr | None:
        parts = _parts_of(secret.get_secret_value()) if secret is not None else ()
        if secret is not None and not parts:
            raise ValueError("must not be empty")
        for part in parts:
            if not part.startswith("whsec_"):
                raise ValueError("each must start with whsec_")
            try:
                Webhook(part)
            except (ValueError, EmptyWebhookSecretError) as exc:
                raise ValueError("each must be base64 after whsec_") from exc
        return secret

    @classmethod
    def read(cls) -> Self:
        """Settings from the environment. Raises SettingsError."""
        refuse_unknown(os.environ)
        try:
            return cls()
        except ValidationError as exc:
            faults = [f"{variable_of(str(fault['loc'][0]))}: {fault['msg']}" for fault in exc.errors()]
            raise SettingsError("\n".join(faults)) from None

    def at_home(self, home: Path | None) -> Self:
        """The same with another home (None: as it is)."""
        return self if home is None else self.model_copy(update={"home": home})

    def as_environment(self) -> dict[str, str]:
        """What a child process needs to read the same settings."""
        values = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None:
                values[variable_of(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return values

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """All that are taken; the sandbox signs with the first."""
        return _parts_of(value_of(self.webhook_secret) or "")

    @property
    def stated_dialect(self) -> Literal["hosted", "usagedb"] | None:
        """None: it has to be found out."""
        return None if self.usagebox_dialect == "auto" else self.usagebox_dialect

    @property
    def api(self) -> str:
        """URL of the API for its clients on this machine."""
        return self.api_url or self.local_url(self.api_port)

    @property
    def dashboard(self) -> str:
        """URL of the dashboard for people."""
        return self.dashboard_url or self.local_url(self.dashboard_port)

    def local_url(self, port: int) -> str:
        """URL of a part that listens at `host`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # told to clients
        return f"http://{host}:{port}"


def variable_of(name: str) -> str:
    """The environment variable of a field."""
    return "UBX_KEY" if name in ("usagebox_key", "UBX_KEY") else PREFIX + name.upper()


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise SettingsError for a `SPENDGATE_*` variable that is no setting, naming the nearest that is."""
    known = sorted(variable_of(name) for name in Settings.model_fields)
    faults = []
    for name in sorted(names):
        if name.startswith(PREFIX) and name not in known and not name.startswith(NO_SETTINGS):
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            faults.append(f"{name} is no setting; the nearest is {nearest}")
    if faults:
        raise SettingsError("\n".join(faults))


def _parts_of(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def value_of(secret: SecretStr | None) -> str | None:
    """What a secret holds."""
    return secret.get_secret_value() if secret is not None else None
