"""Whether a candidate may replace the incumbent: measured on golden sets through the device's own detector code, judged by rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import median
from typing import Any, Final

from edgecase_cloud.errors import Unusable
from edgecase_models.bundle import Bundle, BundleError
from edgecase_models.detector import Detector, DetectorError, Runtime
from edgecase_models.evaluate import (
    CURVE_THRESHOLDS,
    Evaluation,
    EvaluationError,
    Sample,
    Score,
    Sighting,
    look,
    score,
)


class GateError(Unusable):
    """Nothing could be judged; the message says what is missing or broken."""


@dataclass(frozen=True)
class Rules:
    """What a candidate must show, in mAP50-95 between 0 and 1.

    A condition or class with fewer than `min_objects` labelled objects is shown but not judged: one object more or less would decide.
    Ratios are candidate over incumbent; None does not judge them.
    """

    min_gain: float = 0.005
    max_drop_condition: float = 0.02
    max_drop_class: float = 0.03
    min_objects: int = 30
    max_latency_ratio: float | None = None
    max_size_ratio: float | None = None


@dataclass(frozen=True)
class Measured:
    """A model on the golden sets: how well it sees, how long one run takes (median ms), how large its file is."""

    evaluation: Evaluation
    run_ms: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True)
class Pass:
    """The candidate may be released; the reasons are what it gained."""

    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Fail:
    """The incumbent stays; every rule that was broken, with its numbers."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GoldenSet:
    """Labelled pictures that nothing was ever trained on."""

    id: str
    name: str
    samples: Sequence[Sample]


DEFAULT_RULES: Final = Rules()


def judge(candidate: Measured, incumbent: Measured, rules: Rules = DEFAULT_RULES) -> Pass | Fail:
    """Pass where the candidate is better overall and nowhere worse than the rules allow."""
    ours, theirs = candidate.evaluation, incumbent.evaluation
    gain = ours.map50_95 - theirs.map50_95
    overall = f"overall mAP50-95 {_moved(theirs.map50_95, ours.map50_95)}"
    broken = [] if gain >= rules.min_gain else [f"{overall}; at least {rules.min_gain:+.3f} is asked for"]
    for kind, before, after, allowed in (
        ("condition", theirs.per_condition, ours.per_condition, rules.max_drop_condition),
        ("class", theirs.per_class, ours.per_class, rules.max_drop_class),
    ):
        for name, known in before.items():
            now = after.get(name, Score(0.0, 0.0, known.count))
            if known.count >= rules.min_objects and known.map50_95 - now.map50_95 > allowed:
                moved = _moved(known.map50_95, now.map50_95)
                broken.append(f"{kind} {name} mAP50-95 {moved}; at most {-allowed:+.3f} is allowed")
    for what, ratio, limit in (
        ("one run takes", _ratio(candidate.run_ms, incumbent.run_ms), rules.max_latency_ratio),
        ("the file is", _ratio(candidate.size_bytes, incumbent.size_bytes), rules.max_size_ratio),
    ):
        if limit is not None and ratio is not None and ratio > limit:
            broken.append(f"{what} {ratio:.2f} times the incumbent's; at most {limit:.2f} times is allowed")
    return Fail(tuple(broken)) if broken else Pass((overall,))


def compare(
    candidate: Bundle,
    incumbent: Bundle,
    golden: Sequence[GoldenSet],
    rules: Rules = DEFAULT_RULES,
    *,
    runtime: Runtime = Runtime(),
    aside: Sequence[GoldenSet] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run both models on every golden picture and judge; the report as plain values.

    The sets are judged as one. Both models look at a picture one after the other, so that a busy machine slows both alike. Sets in `aside`
    are measured and reported but not judged. Raises `GateError` where there is no golden picture or a model or picture cannot be used.
    """
    everything = [*golden, *aside]
    total = sum(len(each.samples) for each in everything)
    if not any(len(each.samples) for each in golden):
        raise GateError(
            "there is no golden set to judge on; import one with `edgecase-cloud dataset import DIR --name golden --kind golden`"
        )
    try:
        eyes = [each.detector(runtime, CURVE_THRESHOLDS) for each in (candidate, incumbent)]
        seen = list(_both(eyes, everything, total, progress))
    except (BundleError, DetectorError, EvaluationError) as error:
        raise GateError(str(error)) from error
    judged = range(len(golden))
    ours, theirs = (
        Measured(
            score(list(chain.from_iterable(seen[index].sightings[side] for index in judged))),
            median(chain.from_iterable(seen[index].run_ms[side] for index in judged)),
            bundle.path.stat().st_size,
        )
        for side, bundle in enumerate((candidate, incumbent))
    )
    verdict = judge(ours, theirs, rules)
    latency = _ratio(ours.run_ms, theirs.run_ms)
    return {
        "passed": isinstance(verdict, Pass),
        "reasons": list(verdict.reasons),
        "rules": asdict(rules),
        "incumbent": _described(incumbent, theirs),
        "candidate": _described(candidate, ours),
        "latency_ratio": None if latency is None else round(latency, 3),
        "golden": [_part(each, shown) for each, shown in zip(golden, seen, strict=False)],
        "aside": [_part(each, shown) for each, shown in zip(aside, seen[len(golden) :], strict=True)],
    }


@dataclass(frozen=True)
class _Shown:
    """One set as candidate (0) and incumbent (1) saw it."""

    sightings: tuple[list[Sighting], list[Sighting]]
    run_ms: tuple[list[float], list[float]]


def _both(
    eyes: Sequence[Detector],
    sets: Sequence[GoldenSet],
    total: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[_Shown]:
    done = 0
    for each in sets:
        shown = _Shown(([], []), ([], []))
        for sample in each.samples:
            picture = sample.rgb()
            for side, eye in enumerate(eyes):
                shown.sightings[side].append(look(eye, sample, picture))
                shown.run_ms[side].append(eye.stages_ms.run)
            done += 1
            if progress is not None:
                progress(done, total)
        yield shown


def _described(bundle: Bundle, measured: Measured) -> dict[str, Any]:
    return {
        "digest": bundle.digest,
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "size_bytes": measured.size_bytes,
        "run_ms": round(measured.run_ms, 3),
    } | measured.evaluation.as_json()


def _part(golden: GoldenSet, shown: _Shown) -> dict[str, Any]:
    head = {"id": golden.id, "name": golden.name, "pictures": len(golden.samples)}
    if not golden.samples:
        return head
    candidate, incumbent = (score(side).as_json() for side in shown.sightings)
    return head | {"incumbent": incumbent, "candidate": candidate}


def _moved(before: float, after: float) -> str:
    return f"{before:.3f} -> {after:.3f} ({after - before:+.3f})"


def _ratio(ours: float, theirs: float) -> float | None:
    return ours / theirs if theirs > 0 else None
