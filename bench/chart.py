"""The measured numbers as a picture for the README: plain SVG, readable on light and dark backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from measure import Row, number_text

WIDTH = 760
LABEL_WIDTH = 250
BAR_HEIGHT = 22
GAP = 8
TITLE_HEIGHT = 34
SPEED = "decisions a second, 16 callers: "
COST = "Redis CPU per decision, limits: "

STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .ours { fill: #0969da; }
  .other { fill: #8c959f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .ours { fill: #4493f8; }
    .other { fill: #656c76; }
  }
"""


def draw(rows: Sequence[Row]) -> str:
    """Decisions a second beside what one would use instead, and Redis' time by the number of limits."""
    speeds = [(row.name.removeprefix(SPEED), row) for row in rows if row.name.startswith(SPEED)]
    costs = [(limits_of(row), row) for row in rows if row.name.startswith(COST)]
    panels = [
        ("Calls a second of one asyncio process, 16 callers (more is better)", speeds, "/s"),
        ("Redis CPU per decision, microseconds (less is better)", costs, "µs"),
    ]
    parts: list[str] = []
    top = 0
    for title, bars, unit in panels:
        parts.append(f'<text class="title" x="0" y="{top + 20}">{escape(title)}</text>')
        top += TITLE_HEIGHT
        most = max(row.value for _, row in bars)
        for label, row in bars:
            parts += bar(label, row, unit, most, top)
            top += BAR_HEIGHT + GAP
        top += GAP
    content = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img" '
        f'aria-label="{escape(spoken(panels))}">\n<style>{STYLE}</style>\n{content}\n</svg>\n'
    )


def limits_of(row: Row) -> str:
    count = row.name.removeprefix(COST)
    return f"{count} limit" if count == "1" else f"{count} limits"


def bar(label: str, row: Row, unit: str, most: float, top: int) -> list[str]:
    """One line: its label, its bar, and its number beside the bar."""
    length = row.value / most * (WIDTH - LABEL_WIDTH - 110)
    kind = "ours" if label == "Spendgate" or row.name.startswith(COST) else "other"
    baseline = top + BAR_HEIGHT - 6
    return [
        f'<text x="{LABEL_WIDTH - 12}" y="{baseline}" text-anchor="end">{escape(label)}</text>',
        f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="3"/>',
        f'<text x="{LABEL_WIDTH + length + 8:.1f}" y="{baseline}">{number_text(row.value)} {unit}</text>',
    ]


def spoken(panels: Sequence[tuple[str, Sequence[tuple[str, Row]], str]]) -> str:
    """The same as a sentence, for who does not see it."""
    return " ".join(
        f"{title}: " + ", ".join(f"{label} {number_text(row.value)} {unit}" for label, row in bars) + "."
        for title, bars, unit in panels
    )
