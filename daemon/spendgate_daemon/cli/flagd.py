"""`spendgate flagd FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx
from cyclopts import Parameter

from spendgate_daemon.cli.starting import HomeOption, fail, read_settings
from spendgate_daemon.settings import value_of
from spendgate_flags.flagd import write_definition

TIMEOUT_SECONDS = 10.0


def command(
    file: Annotated[Path, Parameter(help="Replaced in one step, when it differs.")], *, home: HomeOption = None
) -> None:
    """Write the flag definition for flagd to a file: who is stopped now, and what each plan allows. Needs a flags key."""
    settings = read_settings(home)
    key = value_of(settings.flags_key)
    if key is None:
        fail(f"no flags key: set SPENDGATE_FLAGS_KEY (there is no keys.env in {settings.home})")
    headers = {"authorization": f"Bearer {key}"}
    try:
        answer = httpx.get(f"{settings.api}/flagd/flags.json", headers=headers, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        written = write_definition(file, answer.content)
    except (httpx.HTTPError, OSError) as exc:
        fail(f"no flag definition from {settings.api} in {file}: {exc}")
    print(f"{file}: {'written' if written else 'unchanged'}")
