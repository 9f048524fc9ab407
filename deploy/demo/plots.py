"""Plots as inline SVG: bars beside bars, and what each device kept over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BEFORE, AFTER, KEPT = "#9aa5b1", "#1f7a8c", "#d1495b"
SHADES = {
    "day": "#fdf3d8",
    "dusk": "#f6d9bf",
    "night": "#c9cfe0",
    "rain": "#d5e3ea",
    "fog": "#e6e6e6",
    "night-rain": "#b4c3d8",
    "night-fog": "#c4c7cf",
}


@dataclass(frozen=True)
class Bar:
    """A quantity before and after, in [0, 1]."""

    label: str
    before: float
    after: float


@dataclass(frozen=True)
class Span:
    """A stretch of a device's time, in seconds, under one condition."""

    start_s: float
    end_s: float
    condition: str


@dataclass(frozen=True)
class Track:
    """One device: its conditions, and when it kept a frame and how much that frame scored."""

    device: str
    spans: Sequence[Span]
    kept: Sequence[tuple[float, float]]
    swapped_s: float | None


def bars(rows: Sequence[Bar], width_px: int = 720) -> str:
    """Two horizontal bars a row, with the difference at the end."""
    left, row_px, scale = 120, 44, width_px - 120 - 110
    height = row_px * len(rows) + 28
    parts = [f'<svg viewBox="0 0 {width_px} {height}" role="img" aria-label="mAP50-95 before and after">']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * scale
        parts.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height - 22}" class="grid"/>')
        parts.append(f'<text x="{x}" y="{height - 6}" class="tick" text-anchor="middle">{tick:g}</text>')
    for index, row in enumerate(rows):
        y = index * row_px + 8
        parts.append(f'<text x="{left - 10}" y="{y + 19}" text-anchor="end" class="name">{escape(row.label)}</text>')
        for offset, value, colour in ((0, row.before, BEFORE), (15, row.after, AFTER)):
            parts.append(
                f'<rect x="{left}" y="{y + offset}" width="{max(1, value * scale):.1f}" height="12" rx="2" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{left + value * scale + 6:.1f}" y="{y + offset + 10}" class="value">{value:.3f}</text>'
            )
        change = row.after - row.before
        parts.append(f'<text x="{width_px - 4}" y="{y + 19}" text-anchor="end" class="change">{change:+.3f}</text>')
    return "".join([*parts, "</svg>"])


def timeline(tracks: Sequence[Track], width_px: int = 720) -> str:
    """A band per device: shaded by condition, a dot per kept frame (higher: more doubtful), a line where the new model took over."""
    left, row_px = 70, 110
    end_s = max((span.end_s for track in tracks for span in track.spans), default=1.0)
    top_score = max((score for track in tracks for _, score in track.kept), default=1.0) or 1.0
    scale = (width_px - left - 10) / end_s
    height = row_px * len(tracks) + 30
    parts = [f'<svg viewBox="0 0 {width_px} {height}" role="img" aria-label="frames kept over time">']
    for index, track in enumerate(tracks):
        y = index * row_px
        parts.append(f'<text x="{left - 10}" y="{y + 52}" text-anchor="end" class="name">{escape(track.device)}</text>')
        for span in track.spans:
            x, wide = left + span.start_s * scale, (span.end_s - span.start_s) * scale
            shade = SHADES.get(span.condition, "#eeeeee")
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 4}" width="{max(0.0, wide):.1f}" height="{row_px - 14}" fill="{shade}"/>'
            )
            if wide > 40:
                parts.append(f'<text x="{x + 5:.1f}" y="{y + 17}" class="tick dark">{escape(span.condition)}</text>')
        for second, score in track.kept:
            cy = y + row_px - 16 - (score / top_score) * (row_px - 46)
            parts.append(
                f'<circle cx="{left + second * scale:.1f}" cy="{cy:.1f}" r="3" fill="{KEPT}" fill-opacity="0.75"/>'
            )
        if track.swapped_s is not None:
            x = left + track.swapped_s * scale
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{y + row_px - 10}" stroke="{AFTER}" stroke-width="2.5"/>'
            )
            parts.append(
                f'<text x="{x - 5:.1f}" y="{y + row_px - 16}" text-anchor="end" class="tick dark">new model</text>'
            )
    ticks = range(0, int(end_s) + 1, 30)
    parts += [
        f'<text x="{left + t * scale:.1f}" y="{height - 8}" text-anchor="middle" class="tick">{t} s</text>'
        for t in ticks
    ]
    return "".join([*parts, "</svg>"])
