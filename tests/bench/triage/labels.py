"""What picks teach: the starter retrained on what each selector chose, at equal frames and at equal boxes, judged on streets nobody saw.

    make bench-labels                                         five streams, 65 trainings: two hours of two cores
    python -m bench.triage.labels --jobs 16 --device 0        the same with a GPU and 16 cores, in minutes

At equal boxes, of the informed peers only the one that taught most at equal frames. Training, evaluation and the cloud's choice of a
batch are the product's own. What was measured is kept under `build/bench/labels/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.report import BUILD, Report, Row
from bench.triage import metrics
from bench.triage.looks import Stream
from bench.triage.ours import EPOCH, Ours
from bench.triage.peers import peers_here
from bench.triage.run import OURS, RANDOM, SEEDS, SHARE, calibration_of, ede
from bench.triage.stream import CONDITIONS, FRAMES_PER_SCENE, STARTER, street_scenes, street_stream
from edgecase_cloud.batch import BatchRules, choose
from edgecase_cloud.dataset_files import data_yaml
from edgecase_cloud.pool import AUDIT, Candidate
from edgecase_cloud.training import Export, Run, TrainingRecipe, train
from edgecase_models.bundle import Bundle
from edgecase_models.detector import Detector, Runtime
from edgecase_models.evaluate import CURVE_THRESHOLDS, Sighting, samples_from_folder, score, sightings
from edgecase_models.street.dataset import Sample, encode_jpeg, label_text, plan_samples, render_dataset
from edgecase_models.street.street import Street

FOLDER: Final = BUILD / "labels"
WEIGHTS: Final = STARTER.with_name("starter.pt")
LEARNT_STREETS, UNSEEN_STREETS = range(1000, 1030), range(9000, 9020)
REPLAYED: Final = 120
"""Pictures by day that are learnt again beside what was picked, so that they are not forgotten."""

OFFERED: Final = 3
"""For a batch chosen in the cloud the device offers this many times as many frames as are labelled."""

MIXED_PICTURES, NIGHT_PICTURES = 520, 120
NIGHT: Final = ("night", "night-rain", "night-fog")
RECIPE: Final = TrainingRecipe(epochs=4, lr0=0.002, keep=0.3)
IN_CLOUD: Final = "edgecase, batch chosen in the cloud"
UNIFORM: Final = "uniform"
INFORMED: Final = (
    "Roboflow close_to_threshold",
    "PPAL, window top-k",
    "VeSSAL",
    "lightly-mundig, diversity × uncertainty",
)
FRAMES, BOXES = "frames", "boxes"
Choosing = Callable[[Stream, int], list[int]]


@dataclass(frozen=True)
class Case:
    """One training: what `selector` picked of the street stream `seed`, as many frames, or boxes, as random did (`equal`)."""

    seed: int
    selector: str
    equal: str
    picks: tuple[int, ...]
    boxes: int

    def key(self, recipe: TrainingRecipe) -> str:
        """Names what was trained on what and how."""
        how = {name: value for name, value in recipe.arguments().items() if name not in ("device", "workers")}
        told = json.dumps([self.seed, self.picks, REPLAYED, how, recipe.keep, WEIGHTS.stat().st_size])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Figures:
    """mAP50-95 on the unseen streets: in the stream's mix of conditions, by night alone, and of the class that is rarest in the mix."""

    mixed: float
    night: float
    rarest: float


# ---- what is picked ------------------------------------------------------------------------------------------------


def case_of(seed: int, selector: str, equal: str) -> Case:
    """A selector's picks of one stream, at as many frames or boxes as random's."""
    stream = street_stream(seed)
    budget = round(SHARE * len(stream.looks))
    boxes = np.array([len(look.truth_classes) for look in stream.looks])
    selectors = selectors_of(stream, equal)
    if equal == FRAMES:
        picks = selectors[selector](stream, budget)[:budget]
    else:
        aim = int(boxes[selectors[RANDOM](stream, budget)].sum())
        picks = within_boxes(partial(selectors[selector], stream), boxes, budget, aim, np.random.default_rng([seed, 5]))
    return Case(seed, selector, equal, tuple(picks), int(boxes[picks].sum()))


def selectors_of(stream: Stream, equal: str) -> dict[str, Choosing]:
    """Random, uniform, the informed peers and ours, each as a function of stream and budget; whose package is not there is left out."""
    table = calibration_of(stream)
    peers, _ = peers_here(partial(ede, calibration=table))
    ours = Ours(OURS, calibration=table)

    def chosen(peer_pick: Callable[..., list[int]]) -> Choosing:
        return lambda stream, budget: peer_pick(stream, budget, np.random.default_rng([stream.seed, 0, 99]))

    return {
        **{peer.name: chosen(peer.pick) for peer in peers if peer.name in (RANDOM, UNIFORM, *INFORMED)},
        OURS: lambda stream, budget: ours.run(stream, budget, stream.seed).picks,
        IN_CLOUD: partial(in_cloud, ours=ours, box_s=0.0 if equal == FRAMES else BatchRules.box_s),
    }


def in_cloud(stream: Stream, budget: int, ours: Ours, box_s: float) -> list[int]:
    """The batch that the cloud chooses among three times as many frames that the device offered.

    `box_s`: what a box costs its labeller; nothing where frames are what is paid for.
    """
    run = ours.run(stream, OFFERED * budget, stream.seed)
    offered = [
        Candidate(
            id=f"{look.index:06d}",
            device="street",
            camera="",
            taken_at=EPOCH + timedelta(seconds=look.at_s),
            score=run.scores[look.index],
            strategies=(AUDIT,) if look.index in run.propensity else ("ede",),
            classes=look.seen.classes.astype(np.int64),
            scores=look.seen.scores.astype(np.float64),
            model_digest="0" * 64,
            fingerprint=look.fingerprint,
            features=look.seen.features,
        )
        for look in (stream.looks[index] for index in run.picks)
    ]
    rules = BatchRules(frames=budget, cold_labels=0, box_s=box_s)
    batch = choose(offered, [], labels=0, rules=rules, now=EPOCH, names=stream.names)
    return sorted(int(pick.id) for pick in batch.picks)


def within_boxes(
    choosing: Callable[[int], list[int]], boxes: np.ndarray, budget: int, aim: int, rng: np.random.Generator
) -> list[int]:
    """Picks with at most `aim` boxes in the truth: the budget is brought near it, and what is still too much is left out by lot."""
    frames, picks = budget, choosing(budget)
    for _ in range(4):
        had = int(boxes[picks].sum())
        if not had or 0 <= had - aim <= 0.03 * aim:
            break
        frames = max(1, round(frames * (1.015 * aim / had)))
        picks = choosing(frames)
    kept, left = [], aim
    for index in rng.permutation(picks).tolist():
        if boxes[index] <= left:
            kept.append(index)
            left -= int(boxes[index])
    return sorted(kept)


# ---- what it teaches -----------------------------------------------------------------------------------------------


def retrained(case: Case, recipe: TrainingRecipe) -> Figures:
    """Train on the picks and on what was learnt before, and measure; from the file where that was done already."""
    path = FOLDER / "figures" / f"{case.key(recipe)}.json"
    if not path.exists():
        folder = FOLDER / "runs" / case.key(recipe)
        shutil.rmtree(folder, ignore_errors=True)
        manifest = Bundle.open(STARTER).manifest
        replay = FOLDER / "replay"
        learnt = {
            path: replay / "labels" / "train" / f"{path.stem}.txt"
            for path in (replay / "images" / "train").glob("*.jpg")
        }
        picked = {path: path.with_suffix(".txt") for path in (picture_of(case.seed, index) for index in case.picks)}
        for number, (picture, label) in enumerate((learnt | picked).items()):
            for file, kind in ((picture, "images"), (label, "labels")):
                target = folder / kind / "train" / f"{number:04d}{file.suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(file)
        (folder / "data.yaml").write_bytes(data_yaml(manifest.classes, {"train"}))
        shape = manifest.input
        export = Export(shape.height_px, shape.width_px, shape.long_side_px)
        done = train(Run(folder, WEIGHTS, folder / "data.yaml", export, recipe))
        save(path, case, measured(Detector(done.onnx, Runtime(threads=1), CURVE_THRESHOLDS)))
        shutil.rmtree(folder)
    return msgspec.json.decode(path.read_bytes(), type=_Kept).figures


def picture_of(seed: int, index: int) -> Path:
    """Where `draw` puts a frame of the street stream `seed`; its label lies beside it."""
    return FOLDER / "pictures" / f"{seed}-{index:05d}.jpg"


def draw(seed: int, scene: int, indices: Sequence[int]) -> None:
    """These frames of one scene as labelled pictures on disk; to build the street costs ten times a frame, so it is done once."""
    asked = street_scenes(seed)[scene]
    street = Street(asked.spec)
    for index in indices:
        picture, truth = street.frame(asked.start + index - scene * FRAMES_PER_SCENE)
        path = picture_of(seed, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(label_text(truth, asked.spec.width_px, asked.spec.height_px))
        part = path.with_suffix(".part")
        part.write_bytes(encode_jpeg(picture))
        part.replace(path)


def undrawn(cases: Sequence[Case]) -> list[tuple[int, int, list[int]]]:
    """What `draw` is to be called with before the cases can be trained."""
    wanted = {(case.seed, index) for case in cases for index in case.picks if not picture_of(case.seed, index).exists()}
    by_scene = groupby(sorted(wanted), key=lambda pick: (pick[0], pick[1] // FRAMES_PER_SCENE))
    return [(seed, scene, [index for _, index in picks]) for (seed, scene), picks in by_scene]


def rendered(folder: Path, samples: Sequence[Sample], split: str) -> Path:
    """A rendered data set, whole or not there; another process may be at it as well."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        render_dataset(part, samples, split)
        try:
            part.rename(folder)
        except OSError:  # the other process was first, with the same
            shutil.rmtree(part)
    return folder


def measured(detector: Detector) -> Figures:
    """How good a detector is on the unseen streets."""
    seen = [list(sightings(detector, samples_from_folder(FOLDER / "test" / name))) for name in CONDITIONS]
    mixed: list[Sighting] = []
    for share, own in zip(CONDITIONS.values(), seen, strict=True):
        count = round(share * MIXED_PICTURES)
        mixed += own[:: max(1, len(own) // count)][:count]
    night = [each for name, own in zip(CONDITIONS, seen, strict=True) if name in NIGHT for each in own]
    whole = score(mixed)
    rarest, _ = min(Counter(name for each in mixed for name in each.truth_classes).items(), key=lambda item: item[1])
    return Figures(whole.map50_95, score(night).map50_95, whole.per_class[rarest].map50_95)


@dataclass(frozen=True)
class _Kept:
    case: Case
    figures: Figures


def save(path: Path, case: Case, figures: Figures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(asdict(_Kept(case, figures))))
    part.replace(path)


def test_pictures(condition: str) -> Path:
    """The unseen streets in one condition; a rare one has more of them than its share, so that it can be measured."""
    least = NIGHT_PICTURES if condition in NIGHT else 0
    count = max(round(CONDITIONS[condition] * MIXED_PICTURES), least)
    return rendered(
        FOLDER / "test" / condition, plan_samples(count, list(UNSEEN_STREETS), (condition,), spacing_s=9.0), "val"
    )


def starter() -> Figures:
    """What the starter can do before it learns anything more."""
    return measured(Bundle.open(STARTER).detector(Runtime(threads=1), CURVE_THRESHOLDS))


Gains = dict[Case, Figures]
"""What each case gained over the starter."""


def taught(
    selectors: Sequence[str],
    equal: str,
    *,
    pool: Executor,
    seeds: Sequence[int],
    recipes: Sequence[TrainingRecipe],
    before: Figures,
) -> Gains:
    """Each selector's picks of each stream, and what the starter gains by them, as the mean over the recipes."""
    cases = list(pool.map(case_of, *zip(*product(seeds, selectors, (equal,)), strict=True)))
    for drawing in [pool.submit(draw, *frames) for frames in undrawn(cases)]:
        drawing.result()
    trainings = {pool.submit(retrained, case, recipe): case for case in cases for recipe in recipes}
    found: dict[Case, list[Figures]] = {case: [] for case in cases}
    for done in track(as_completed(trainings), f"trainings, equal {equal}", len(trainings)):
        found[trainings[done]].append(_minus(done.result(), before))
    return {case: _mean(figures) for case, figures in found.items()}


# ---- the report ----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="a street stream; default 1 to 5")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trainings at a time")
    parser.add_argument("--device", default="cpu", help="where to train, by Ultralytics' names")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each case, with other training seeds")
    asked = parser.parse_args()
    seeds = asked.seed or SEEDS
    for seed in seeds:
        street_stream(seed)  # made on all cores, one after the other
    threads = max(1, len(os.sched_getaffinity(0)) // asked.jobs)
    recipes = [
        msgspec.structs.replace(RECIPE, threads=threads, device=asked.device, seed=n) for n in range(asked.repeats)
    ]
    with ProcessPoolExecutor(asked.jobs) as pool:
        replay = plan_samples(REPLAYED, list(LEARNT_STREETS), ("day",), spacing_s=9.0)
        made = [pool.submit(rendered, FOLDER / "replay", replay, "train")]
        made += [pool.submit(test_pictures, condition) for condition in CONDITIONS]
        for each in made:
            each.result()
        before = pool.submit(starter).result()
        print(
            f"the starter: {before.mixed:.3f} in the mix, {before.night:.3f} by night, {before.rarest:.3f} the rarest class"
        )
        learn = partial(taught, pool=pool, seeds=seeds, recipes=recipes, before=before)
        names = list(selectors_of(street_stream(seeds[0]), FRAMES))
        gains = learn(names, FRAMES)
        best = max(
            (name for name in names if name in INFORMED), key=lambda name: np.mean(_of(gains, FRAMES, name, "mixed"))
        )
        gains |= learn([RANDOM, UNIFORM, best, OURS, IN_CLOUD], BOXES)
    report = Report("labels", f"labels of {SHARE:.0%} of each stream's frames; mAP50-95 gained over the starter")
    for equal in (FRAMES, BOXES):
        _show(equal, gains)
        _bars(report, equal, gains)
    report.close()
    return 0 if all(row.ok is not False for row in report.rows) else 1


def _minus(one: Figures, other: Figures) -> Figures:
    return Figures(one.mixed - other.mixed, one.night - other.night, one.rarest - other.rarest)


def _mean(found: Sequence[Figures]) -> Figures:
    return Figures(*(float(np.mean([getattr(each, name) for each in found])) for name in Figures.__dataclass_fields__))


def _of(gains: Gains, equal: str, selector: str, key: str) -> list[float]:
    """By seed."""
    mine = sorted(
        (case.seed, getattr(gain, key))
        for case, gain in gains.items()
        if (case.equal, case.selector) == (equal, selector)
    )
    return [value for _, value in mine]


def _selectors(gains: Gains, equal: str) -> list[str]:
    return list(dict.fromkeys(case.selector for case in gains if case.equal == equal))


def _show(equal: str, gains: Gains) -> None:
    table = Table(
        "selector", "frames", "boxes", "mix", "over random", "night", "over random", "rarest class", "over random",
        title=f"equal {equal}: mAP50-95 gained, ± half the 95 % interval over the streams", title_justify="left",
    )  # fmt: skip
    for name in _selectors(gains, equal):
        own = [case for case in gains if (case.equal, case.selector) == (equal, name)]
        cells = [f"{np.mean([len(case.picks) for case in own]):.0f}", f"{np.mean([case.boxes for case in own]):.0f}"]
        for key in Figures.__dataclass_fields__:
            mine, random = _of(gains, equal, name, key), _of(gains, equal, RANDOM, key)
            cells += [_told(metrics.t_interval(mine)), _told(metrics.paired_difference(mine, random))]
        table.add_row(name, *cells, style="bold" if name.startswith(OURS) else "")
    Console(width=170).print(table)


def _told(found: metrics.Interval) -> str:
    half = found.high - found.mean
    return f"{found.mean:+.4f}" + ("" if np.isnan(half) else f" ±{half:.4f}")


def _bars(report: Report, equal: str, gains: Gains) -> None:
    def mean(name: str, key: str = "mixed") -> float:
        return float(np.mean(_of(gains, equal, name, key)))

    informed = [name for name in _selectors(gains, equal) if name in INFORMED]
    for name in (OURS, IN_CLOUD):
        against = metrics.paired_difference(_of(gains, equal, name, "mixed"), _of(gains, equal, RANDOM, "mixed"))
        title = f"equal {equal}, {name}"
        report.add(Row(f"{title}: gain", mean(name), "mAP", UNIFORM, mean(UNIFORM)))
        report.add(Row(f"{title}: upper 95 % bound of gain − random's", against.high, "mAP", RANDOM, mean(RANDOM), 0.0))
        if informed:
            best = max(informed, key=mean)
            report.add(Row(f"{title}: gain beside the best informed", mean(name), "mAP", best, mean(best), mean(best)))
        for key, told in (("night", "night"), ("rarest", "the rarest class")):
            theirs = mean(RANDOM, key)
            report.add(
                Row(
                    f"{title}: gain, {told}, of random's",
                    mean(name, key) / theirs,
                    "×",
                    RANDOM,
                    theirs,
                    1.2 if key == "night" else None,
                )
            )


if __name__ == "__main__":
    sys.exit(main())
