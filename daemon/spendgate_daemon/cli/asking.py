"""The API, for commands of an administrator that go over it, so that whose key it is stands with what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx

from spendgate_daemon.cli.starting import fail, read_settings
from spendgate_daemon.settings import value_of

TIMEOUT_SECONDS: Final = 10.0


def opened_api(home: Path | None) -> httpx.Client:
    """With the admin key of the settings, or of a running `spendgate up`. Exits with a message when there is none."""
    settings = read_settings(home)
    key = value_of(settings.admin_key)
    if key is None:
        fail(f"no admin key: set SPENDGATE_ADMIN_KEY (there is no keys.env in {settings.home})")
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=settings.api, headers=headers, timeout=TIMEOUT_SECONDS)


def ask(http: httpx.Client, method: str, path: str, **given: Any) -> Any:
    """What the API answers. Exits with what it says when it refuses, or with why it does not answer."""
    try:
        response = http.request(method, path, **given)
    except httpx.HTTPError as exc:
        fail(f"the API at {http.base_url} does not answer: {exc}")
    if response.is_error:
        try:
            fail(str(response.json()["detail"]))
        except (ValueError, KeyError, TypeError):
            fail(f"the API at {http.base_url} refused: {response.status_code}")
    return response.json()
