"""Colours, glyphs and words of states. Always a glyph and a word: colour alone tells some people nothing."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

LIGHT: Final = {
    "allowed": "#20619F",
    "warning": "#8F7200",
    "throttled": "#5F2A00",
    "stopped": "#B3123F",
    "muted": "#5B6B80",
}
DARK: Final = {
    "allowed": "#3A86D5",
    "warning": "#F7ECB6",
    "throttled": "#CE6724",
    "stopped": "#E99FBA",
    "muted": "#9AA8BD",
}

STATES: Final = {
    "ok": ("✓", "Allowed", "allowed"),
    "throttled": ("◐", "Throttled", "throttled"),
    "stopped": ("■", "Stopped", "stopped"),
    "suspended": ("■", "Suspended", "stopped"),
}
OUTCOMES: Final = {
    "allow": ("✓", "Allowed", "allowed"),
    "throttle": ("◐", "Wait", "throttled"),
    "stop": ("■", "Stopped", "stopped"),
}
RESERVATIONS: Final = {
    "reserve": ("◷", "Reserved", "allowed"),
    "commit": ("✓", "Committed", "allowed"),
    "release": ("○", "Released", "muted"),
    "expire": ("▲", "Expired", "warning"),
    "extend": ("◷", "Extended", "allowed"),
    "settle": ("✓", "Settled", "allowed"),
    "correct": ("✎", "Corrected", "warning"),
}
"""What was allowed under a reservation, by the mode of its record."""

EVENT_KINDS: Final = {
    "stopped": ("■", "Stopped", "stopped"),
    "suspended": ("■", "Suspended", "stopped"),
    "throttled": ("◐", "Throttled", "throttled"),
    "resumed": ("✓", "Resumed", "allowed"),
    "threshold_crossed": ("▲", "Threshold crossed", "warning"),
    "overage_started": ("▲", "Overage started", "warning"),
    "override_on": ("⚑", "Override on", "warning"),
    "override_off": ("⚑", "Override off", "muted"),
    "repair": ("✚", "Repaired", "warning"),
    "corrected": ("✎", "Corrected", "warning"),
    "delivery_discarded": ("✕", "Delivery discarded", "warning"),
    "duplicate": ("≡", "Duplicate taken back", "warning"),
}

CSS: Final = """
<style>
[data-testid="stMainBlockContainer"] {padding-top: 3.4rem; padding-bottom: 2rem;}
[data-testid="stMetricValue"], [data-testid="stDataFrame"], .sg-number {font-variant-numeric: tabular-nums;}
[data-testid="stMetricValue"] {font-size: 1.7rem; font-weight: 600;}
.sg-banner {border: 2px dashed #8F7200; border-radius: .5rem; padding: .25rem .8rem; font-weight: 600; margin-bottom: .4rem;}
.sg-say {border-left: 5px solid var(--sg, #20619F); border-radius: .25rem; padding: .55rem .9rem; font-size: 1.05rem;
  background: color-mix(in srgb, var(--sg, #20619F) 9%, transparent);}
.sg-say b {color: var(--sg);}
.sg-quiet {opacity: .72; font-size: .86rem;}
</style>
"""


def is_dark() -> bool:
    return st.context.theme.type == "dark"


def colour(name: str) -> str:
    return (DARK if is_dark() else LIGHT)[name]


def look_of(outcome: str, mode: str) -> tuple[str, str, str]:
    """Glyph, word and tone of a decision, or of what became of a reservation."""
    return RESERVATIONS[mode] if outcome == "allow" and mode in RESERVATIONS else OUTCOMES[outcome]


def shown(row: dict[str, Any]) -> str:
    """What a row of the list of decisions is, as a glyph and a word."""
    glyph, word, _ = look_of(row["outcome"], row["mode"])
    return f"{glyph} {word}"


def named(table: dict[str, tuple[str, str, str]], key: str) -> str:
    """`■ Stopped`; what the table does not know is shown as it is."""
    glyph, word, _ = table.get(key, ("", key, "muted"))
    return f"{glyph} {word}".strip()
