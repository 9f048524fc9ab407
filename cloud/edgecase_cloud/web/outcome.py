"""What jobs and datasets say of themselves, as rows to show: stages, facts, shares, and the gate's report as a comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgecase_cloud.catalogue import Job, JobState

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
STAGES: Final = ("dataset", "train", "export", "gate", "release")


@dataclass(frozen=True)
class Compared:
    """One line of the gate's report: mAP50-95 of both models on one class, one condition, or everything."""

    name: str
    incumbent: float | None
    candidate: float | None
    count: int | None

    @property
    def change(self) -> float | None:
        """Candidate less incumbent, where both were measured."""
        return None if self.incumbent is None or self.candidate is None else self.candidate - self.incumbent


@dataclass(frozen=True)
class GateView:
    """The report of `gate.compare`, laid out: everything as one, then per condition, per class and per golden set."""

    passed: bool
    reasons: tuple[str, ...]
    overall: Compared
    conditions: tuple[Compared, ...]
    classes: tuple[Compared, ...]
    sets: tuple[Compared, ...]
    min_objects: int
    run_ms: tuple[float, float] | None
    size_bytes: tuple[int, int] | None


def gate_view(report: Mapping[str, Any]) -> GateView | None:
    """A gate's report as the page shows it; None where there is none, or one of another make."""
    incumbent, candidate = report.get("incumbent"), report.get("candidate")
    if "passed" not in report or not isinstance(incumbent, dict) or not isinstance(candidate, dict):
        return None
    old, new = (tuple(side.get(key) or 0 for key in ("run_ms", "size_bytes")) for side in (incumbent, candidate))
    sets = [*report.get("golden", ()), *report.get("aside", ())]
    return GateView(
        passed=bool(report["passed"]),
        reasons=tuple(str(reason) for reason in report.get("reasons", ())),
        overall=Compared("everything", _map(incumbent), _map(candidate), None),
        conditions=_compared(incumbent.get("per_condition"), candidate.get("per_condition")),
        classes=_compared(incumbent.get("per_class"), candidate.get("per_class")),
        sets=tuple(
            Compared(str(each.get("name", "")), _map(each.get("incumbent")), _map(each.get("candidate")), None)
            for each in sets
        ),
        min_objects=int((report.get("rules") or {}).get("min_objects", 0)),
        run_ms=(float(old[0]), float(new[0])) if old[0] and new[0] else None,
        size_bytes=(int(old[1]), int(new[1])) if old[1] and new[1] else None,
    )


def stage_progress(job: Job) -> list[tuple[str, float]]:
    """Each stage with how far it is, 0 to 1."""
    if job.state == JobState.DONE:
        return [(stage, 1.0) for stage in STAGES]
    at = STAGES.index(job.stage) if job.stage in STAGES else -1
    return [(s, 1.0 if i < at else job.progress if i == at else 0.0) for i, s in enumerate(STAGES)]


def conclusion(job: Job) -> str:
    """How the job stands, in a word or two: its state, or, where it is done, what came of it."""
    if job.state != JobState.DONE:
        return str(job.state)
    release = job.result.get("release")
    if release is not None:
        return f"release {release}"
    return "not passed" if job.result.get("passed") is False else "not released"


def losses(result: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    """(epoch, sum of its losses) of the training so far."""
    found: list[tuple[int, float]] = []
    for each in result.get("epochs") or ():
        parts = [v for v in (each.get("losses") or {}).values() if isinstance(v, int | float)]
        if parts and all(math.isfinite(v) for v in parts):
            found.append((int(each.get("epoch", len(found) + 1)), sum(parts)))
    return tuple(found)


def curve(points: tuple[tuple[int, float], ...], width: float = 100.0, height: float = 100.0) -> str:
    """The points of an SVG polyline from the first epoch to the last, zero at the bottom."""
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    top = max(value for _, value in points) or 1.0
    return " ".join(
        f"{(epoch - first) / max(1, last - first) * width:.1f},{height - value / top * height:.1f}"
        for epoch, value in points
    )


def described(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """A dataset's counts by what they count, each as (name, number, share of the largest)."""
    return [(key, _shares(value)) for key, value in summary.items() if isinstance(value, dict) and value]


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plain entries of a result or a request, readable; long and nested ones are left to the API."""
    return [
        (key.replace("_", " "), _plain(value))
        for key, value in record.items()
        if isinstance(value, str | int | float | bool) or value is None
    ]


def _map(scored: Any) -> float | None:
    value = scored.get("map50_95") if isinstance(scored, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _compared(incumbent: Any, candidate: Any) -> tuple[Compared, ...]:
    before, after = incumbent or {}, candidate or {}
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        Compared(
            str(name),
            _map(before.get(name)),
            _map(after.get(name)),
            int((before.get(name) or after.get(name) or {}).get("count", 0)),
        )
        for name in names
    )


def _shares(counted: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    numbers = [(str(k), int(v)) for k, v in counted.items() if isinstance(v, int | float)]
    largest = max((n for _, n in numbers), default=0) or 1
    return [(name, n, n / largest) for name, n in sorted(numbers, key=lambda entry: -entry[1])]


def _plain(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    if DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= 80 else f"{text[:77]}…"
