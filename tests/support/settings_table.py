"""The README's table of settings, made from the settings themselves."""

from __future__ import annotations

from pydantic_core import PydanticUndefined

from spendgate_daemon.settings import Settings, variable_of


def rows() -> list[str]:
    made = []
    for name, field in Settings.model_fields.items():
        default = field.default
        assert default is not PydanticUndefined
        shown = "none" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        made.append(f"| `{variable_of(name)}` | {shown} | {field.description} |")
    return made
