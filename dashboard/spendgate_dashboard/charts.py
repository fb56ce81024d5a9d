"""Charts, drawn as SVG. At most 2,000 buckets come from the API, so they are drawn as they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import plotly.graph_objects as go

from spendgate_dashboard.formats import instant
from spendgate_dashboard.looks import colour, is_dark

CONFIG = {"displaylogo": False, "displayModeBar": False}


def burn_chart(
    points: list[dict[str, Any]],
    *,
    unit: str,
    now: datetime,
    cap: int | None,
    period_start: datetime | None,
    period_end: datetime | None,
    per_hour: int | None,
    customer_id: str,
) -> go.Figure:
    """Cumulative use since the period's start, from zero, with the cap and, dotted, where the present burn leads."""
    times, gate, outside = [], [], []
    own = other = 0
    for point in points:
        at = instant(point["at"])
        if at is None or (period_start is not None and at < period_start):
            continue
        own, other = own + point["used"], other + point["external"]
        times.append(at)
        gate.append(own)
        outside.append(other)
    if times and times[-1] < now:
        times.append(now)
        gate.append(own)
        outside.append(other)
    figure = go.Figure()
    common: dict[str, Any] = {"x": times, "stackgroup": "use", "mode": "lines", "hovertemplate": f"%{{y:,}} {unit}s"}
    figure.add_scatter(
        **common, y=outside, name="recorded outside the gate", line={"width": 1, "color": colour("muted")}
    )
    figure.add_scatter(**common, y=gate, name="through the gate", line={"width": 2, "color": colour("allowed")})
    total = own + other
    if per_hour and period_end is not None and total:
        hours = (period_end - now).total_seconds() / 3600
        if cap is not None and per_hour * hours > max(0, cap - total) * 1.5:
            hours = max(1.0, (cap - total) * 1.5 / per_hour)
        end = now + (period_end - now) * min(1.0, hours * 3600 / max(1.0, (period_end - now).total_seconds()))
        figure.add_scatter(
            x=[now, end],
            y=[total, total + per_hour * (end - now).total_seconds() / 3600],
            name="at the present burn",
            mode="lines",
            line={"dash": "dot", "width": 2, "color": colour("warning")},
            hovertemplate=f"%{{y:,.0f}} {unit}s",
        )
    if cap is not None:
        figure.add_hline(
            y=cap,
            line={"dash": "dash", "width": 2, "color": colour("stopped")},
            annotation={"text": f"cap {cap:,} {unit}s", "font": {"color": colour("stopped"), "size": 13}},
            annotation_position="top left",
        )
    grid = "#2B384E" if is_dark() else "#E3E8EF"
    figure.update_layout(
        hovermode="x unified",
        uirevision=customer_id,
        height=320,
        margin={"l": 8, "r": 8, "t": 24, "b": 8},
        legend={"orientation": "h", "y": -0.18},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "Inter, sans-serif", "size": 13},
        yaxis={"tickformat": "~s", "rangemode": "tozero", "title": {"text": f"{unit}s"}, "gridcolor": grid},
        xaxis={"gridcolor": grid, "title": {"text": "time (UTC)"}},
    )
    return figure
