"""Plots of a replay as inline SVG, coloured by the report's sheet: what each policy kept over time, and errors caught against budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_agent.capture import Errors, by_chance
from edgecase_agent.replayed import RANK, Pick, Recorded
from edgecase_agent.selection import AUDIT, CONTEXT

_MOST_BINS: Final = 480
_POINTS: Final = 80
_STEPS_S: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The inner rectangle of a plot, and what it spans: [0, x_end] and [0, y_end], the latter perhaps by its root."""

    left: float
    top: float
    width: float
    height: float
    x_end: float
    y_end: float
    by_root: bool = False

    def x(self, value: float) -> float:
        return self.left + self.width * min(1.0, value / self.x_end)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, value / self.y_end))
        return self.top + self.height * (1 - (math.sqrt(share) if self.by_root else share))

    @property
    def bottom(self) -> float:
        return self.top + self.height


# ---- over time ---------------------------------------------------------------------------------------------------------


def timeline(recorded: Recorded, policy: int) -> str:
    """The policy's score over the recording, its picks on it, and below, where the truth is known, where the detector errs."""
    width, height = 1000, 158
    scores, at_s = recorded.scores[policy], recorded.at_s
    end_s = max(float(at_s[-1]), 1e-3)
    most = float(np.nanmax(np.append(scores, 0.0)))
    frame = _Frame(46, 8, width - 56, height - 56, end_s, _round_up(most), by_root=True)
    count = min(_MOST_BINS, len(at_s))
    bins = np.minimum((at_s / end_s * count).astype(int), count - 1)
    parts = [_open(width, height, "score over time, with the frames that were kept"), *_levels(frame, _plain)]
    parts.append(_area(frame, at_s, scores, bins, count))
    if recorded.errors is not None:
        parts += _strip(frame, bins[recorded.labelled], count, recorded.errors)
    parts += [_mark(frame, pick) for pick in recorded.document.policies[policy].picks]
    step_s = next((step for step in _STEPS_S if end_s / step <= 9), _STEPS_S[-1])
    parts += [
        f'<text class="tick" x="{frame.x(tick):.1f}" y="{height - 4}" text-anchor="middle">{clock(tick, step_s)}</text>'
        for tick in np.arange(0, end_s + step_s / 1000, step_s).tolist()
    ]
    return "".join([*parts, "</svg>"])


def clock(second: float, step_s: float = 1.0) -> str:
    """A moment of the recording, as h:mm:ss or m:ss, with a tenth where steps are that small."""
    tenths = round(second * 10) if step_s < 1 else round(second) * 10
    whole, tenth = divmod(tenths, 10)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{text}.{tenth}" if step_s < 1 else text


def _area(frame: _Frame, at_s: Floats, scores: Floats, bins: NDArray[np.intp], count: int) -> str:
    """The highest score of each bin; a line through what there is."""
    highest = np.full(count, -np.inf)
    np.fmax.at(highest, bins, scores)
    when = np.zeros(count)
    when[bins] = at_s
    points = [
        f"{frame.x(second):.1f},{frame.y(score):.1f}"
        for second, score in zip(when.tolist(), highest.tolist(), strict=True)
        if math.isfinite(score)
    ]
    if not points:
        return ""
    first, last = points[0].partition(",")[0], points[-1].partition(",")[0]
    line = " ".join(points)
    return (
        f'<polygon class="area" points="{first},{frame.bottom:.1f} {line} {last},{frame.bottom:.1f}"/>'
        f'<polyline class="line" points="{line}"/>'
    )


def _strip(frame: _Frame, bins: NDArray[np.intp], count: int, errors: Errors) -> list[str]:
    """A band under the plot, the stronger the more errors a frame of the bin has."""
    worst = np.zeros(count)
    np.maximum.at(worst, bins, errors.counts)
    most = max(1.0, float(np.quantile(errors.counts, 0.98)))
    wide = frame.width / count
    parts = [f'<rect class="ground" x="{frame.left}" y="{frame.bottom + 12}" width="{frame.width}" height="9"/>']
    parts += [
        f'<rect class="err" x="{frame.left + place * wide:.1f}" y="{frame.bottom + 12}" width="{wide + 0.2:.1f}" height="9" '
        f'fill-opacity="{0.2 + 0.8 * min(1.0, worst[place] / most):.2f}"/>'
        for place in np.flatnonzero(worst).tolist()
    ]
    parts.append(f'<text class="tick" x="{frame.left - 6}" y="{frame.bottom + 20}" text-anchor="end">errors</text>')
    return parts


def _mark(frame: _Frame, pick: Pick) -> str:
    x, y = frame.x(pick.at_s), frame.y(pick.score)
    said = f"<title>{escape(pick.trigger)}: frame {pick.frame_index} at {clock(pick.at_s, 0.1)}, score {pick.score:.2f}</title>"
    if pick.trigger == CONTEXT:
        return f'<path class="context" d="M{x:.1f} {frame.bottom:.1f}v-7">{said}</path>'
    if pick.trigger in (RANK, AUDIT):
        return f'<circle class="{pick.trigger}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{said}</circle>'
    return f'<path class="called" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z">{said}</path>'


# ---- against budget ----------------------------------------------------------------------------------------------------


def errors_caught(recorded: Recorded, errors: Errors) -> str:
    """Of all errors, the share in picks, against the share of the frames that were picked."""
    counts, total = errors.counts, int(errors.counts.sum())
    best = np.sort(counts)[::-1].cumsum() / total

    def in_the_top(order: NDArray[np.intp]) -> Floats:
        return np.asarray(counts[order].cumsum() / total)

    points = [each.captured.errors.value if each.captured else None for each in recorded.document.policies]
    return _caught(recorded, errors, points, in_the_top, lambda picks: picks / len(errors), best, "of all errors")


def objects_caught(recorded: Recorded, errors: Errors) -> str:
    """Of the objects that some frame misses, the share that a pick shows missed, against the share of the frames that were picked."""
    total = len(errors.missed_tracks)

    def in_the_top(order: NDArray[np.intp]) -> Floats:
        caught: set[int] = set()
        found = np.zeros(len(order))
        for place, position in enumerate(order.tolist()):
            caught |= errors.missed[position]
            found[place] = len(caught)
        return found / total

    points = [each.captured.missed_objects.value if each.captured else None for each in recorded.document.policies]
    chance: Callable[[int], float] = lambda picks: by_chance(errors, picks).missed_tracks  # noqa: E731
    return _caught(recorded, errors, points, in_the_top, chance, None, "of all missed objects")


def _caught(
    recorded: Recorded,
    errors: Errors,
    points: Sequence[float | None],
    in_the_top: Callable[[NDArray[np.intp]], Floats],
    chance: Callable[[int], float],
    best: Floats | None,
    unit: str,
) -> str:
    """For every policy what it caught, and a line for its score alone: the frames that score highest, wherever they lie."""
    frames = len(errors)
    picked = [each.captured.picks if each.captured else 0 for each in recorded.document.policies]
    shown = min(frames, max(10, math.ceil(1.6 * max(picked, default=0)), frames // 10))
    places = np.unique(np.linspace(0, shown, _POINTS + 1).round().astype(int))
    lines = []
    for scores in recorded.scores:
        order = np.argsort(-np.nan_to_num(scores[recorded.labelled], nan=-np.inf), kind="stable")[:shown]
        lines.append(np.concatenate([[0.0], in_the_top(order)])[places])
    by_luck = np.array([chance(int(place)) for place in places])
    most = max(float(np.max(line)) for line in [*lines, by_luck])
    most = max([most, *(point for point in points if point is not None)])
    width, height = 480, 300
    frame = _Frame(44, 10, width - 66, height - 48, shown / frames, min(1.0, _round_up(most)))
    parts = [_open(width, height, f"share {unit} against the share of frames picked"), *_levels(frame, _percent)]
    parts.append(_line(frame, places / frames, by_luck, "chance"))
    if best is not None:
        perfect = np.concatenate([[0.0], best])[places]
        inside = perfect <= frame.y_end
        parts.append(_line(frame, places[inside] / frames, perfect[inside], "perfect"))
    for number, line in enumerate(lines):
        parts.append(_line(frame, places / frames, line, f"score p{number % 6}"))
    for number, (value, picks) in enumerate(zip(points, picked, strict=True)):
        if value is not None:
            name = escape(recorded.document.policies[number].name)
            parts.append(
                f'<circle class="point p{number % 6}" cx="{frame.x(picks / frames):.1f}" cy="{frame.y(value):.1f}" r="6">'
                f"<title>{name}: {value:.1%} {unit} in {picks:,} picks</title></circle>"
            )
    parts += [
        f'<text class="tick" x="{frame.x(tick):.1f}" y="{height - 20}" text-anchor="middle">{_percent(tick)}</text>'
        for tick in _ticks(frame.x_end)
    ]
    middle = frame.left + frame.width / 2
    parts.append(f'<text class="tick" x="{middle}" y="{height - 4}" text-anchor="middle">of the frames picked</text>')
    return "".join([*parts, "</svg>"])


# ---- pieces ------------------------------------------------------------------------------------------------------------


def _open(width: int, height: int, label: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'


def _line(frame: _Frame, xs: Floats, ys: Floats, kind: str) -> str:
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(xs.tolist(), ys.tolist(), strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _levels(frame: _Frame, words: Callable[[float], str]) -> Iterable[str]:
    """Horizontal lines with what they stand for."""
    for level in _by_root(frame) if frame.by_root else _ticks(frame.y_end):
        y, right = frame.y(level), frame.left + frame.width
        yield f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{words(level)}</text>'


def _ticks(end: float) -> list[float]:
    step = _step(end)
    return [step * n for n in range(int(end / step + 1e-6) + 1)]


def _by_root(frame: _Frame) -> list[float]:
    """1, 2 and 5 times powers of ten, and the end, as far as they stand apart."""
    top = math.floor(math.log10(frame.y_end))
    levels = [frame.y_end]
    for level in [digit * 10.0**power for power in (top, top - 1, top - 2) for digit in (5, 2, 1)]:
        if level < frame.y_end and min(frame.y(level) - frame.y(levels[-1]), frame.bottom - frame.y(level)) >= 16:
            levels.append(level)
    return [*levels, 0.0]


def _step(end: float) -> float:
    """1, 2 or 5 times a power of ten, so that at most six make up `end`."""
    base = 10.0 ** math.floor(math.log10(end))
    return next(base * part for part in (0.1, 0.2, 0.5, 1.0, 2.0) if end / (base * part) <= 6)


def _round_up(most: float) -> float:
    """The next tick above the largest value; 1 where there is none."""
    if not (math.isfinite(most) and most > 0):
        return 1.0
    step = _step(most)
    return math.ceil(most / step * (1 - 1e-9)) * step


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{value * 100:.3g} %"
