"""`spendgate sign-in`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter

from spendgate_daemon.cli.starting import HomeOption, fail, read_settings
from spendgate_daemon.sign_in import NoSignIn, sign_in_link


def command(
    *,
    home: HomeOption = None,
    principal: str | None = None,
    admin: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print a link that signs one person in to the dashboard, once, within 15 minutes. Needs an admin key.

    Parameters
    ----------
    principal
        Who signs in, as overrides and the audit will name them. Default: the key's owner.
    admin
        They may do what an administrator may, such as retry and discard dead letters.
    """
    settings = read_settings(home)
    try:
        print(asyncio.run(sign_in_link(settings, principal, admin=admin)))
    except NoSignIn as exc:
        fail(str(exc))
