"""The command `spendgate`. Each subcommand is imported when it's used, so that none pays for another's libraries."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from cyclopts import App, Group

PARTS: Final = Group("The parts, one by one", sort_key=2)
EVERYTHING: Final = Group("Everything", sort_key=1)
TOOLS: Final = Group("Tools", sort_key=3)

app = App(
    name="spendgate",
    help="The gate between AI usage and the customer's contract.",
    version=lambda: version("spendgate"),
)

_COMMANDS: Final = (
    ("up", EVERYTHING, "Run everything on this machine, without configuration."),
    ("api", PARTS, "Run the HTTP API."),
    ("daemon", PARTS, "Run the background daemon: relays, mirror, schedules."),
    ("dashboard", PARTS, "Run the dashboard."),
    ("sandbox", PARTS, "Run the sandbox, an embedded UsageBox."),
    ("traffic", TOOLS, "Send load as an application would."),
    ("policy", TOOLS, "Work with policy documents."),
    ("correct", TOOLS, "Put right what was committed under a decision; the original stays."),
    ("replay", TOOLS, "Make a stored decision again, and say whether it agrees."),
    ("reconcile", TOOLS, "Compare what was enforced, recorded and billed, and put it right."),
    ("rebuild", TOOLS, "Make everything in Redis again, after it lost its data."),
    ("dead-letters", TOOLS, "List, retry and discard what a sink refused for good."),
    ("keys", TOOLS, "Make, list and revoke API keys."),
    ("flagd", TOOLS, "Write the flag definition for flagd to a file."),
    ("sign-in", TOOLS, "Print a one-time link to the dashboard."),
    ("doctor", TOOLS, "Check Redis, store, UsageBox, Kafka, policy document and ports."),
)

for _name, _group, _help in _COMMANDS:
    _function = "app" if _name in ("policy", "keys", "dead-letters") else "command"
    _module = f"spendgate_daemon.cli.{_name.replace('-', '_')}"
    app.command(f"{_module}:{_function}", name=_name, group=_group, help=_help)


def main() -> None:
    """The entry point."""
    app()
