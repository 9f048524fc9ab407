"""A retraining from labels to release: what it is asked to do, and the stages it goes through."""

from __future__ import annotations

import difflib
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta

from edgecase_cloud import bundles, datasets, gate, training
from edgecase_cloud.catalogue import Bundle, Catalogue, Dataset
from edgecase_cloud.dataset_files import DatasetFolder
from edgecase_cloud.datasets import Kind, Pictures
from edgecase_cloud.errors import Unusable
from edgecase_cloud.gate import GoldenSet, Rules
from edgecase_cloud.packing import calibration_of, with_features
from edgecase_cloud.release import DEFAULT_CHANNEL
from edgecase_cloud.splits import SplitError, SplitRule
from edgecase_cloud.training import Export, Run, Trained, TrainingRecipe, TrainingStopped
from edgecase_models.bundle import Bundle as Package
from edgecase_models.bundle import BundleError, Lineage, pack
from edgecase_models.detector import Runtime
from edgecase_models.evaluate import Sample, read_rgb, samples_from_folder
from edgecase_models.features import FeaturesError

STAGES: Final = ("dataset", "train", "export", "gate", "release")
GOLDEN_PICTURES: Final = 2
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class RequestError(Unusable):
    """A request that cannot be followed; the message names the key and what may stand there."""


class Stopped(RuntimeError):
    """The worker is to end; the job goes back into the queue."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to learn from and what to do with the result; see `SplitRule`, `Rules` and `TrainingRecipe` for the rest.

    `starter_weights`: the SHA-256 of weights that this cloud holds (`bundles.keep_weights`), to go on from instead of the incumbent's. A
    request may come from another machine, and loading weights runs what is in them: it can name no file. `replay`: how many pictures of
    the base datasets are mixed in. `labelled_repeat`: how often each labelled picture is seen per epoch. `release`: publish the candidate
    when the gate passes it. `gate_threads`: of ONNX Runtime, for each of the two models.
    """

    starter_weights: str | None = None
    replay: Annotated[int, Meta(ge=0)] = 150
    labelled_repeat: Annotated[int, Meta(ge=1, le=100)] = 1
    block_s: float = 60.0
    gap_s: float = 5.0
    val_share: float = 0.15
    release: bool = True
    channel: str = DEFAULT_CHANNEL
    gate_threads: Annotated[int, Meta(ge=1, le=256)] = 1


@dataclass(frozen=True)
class Request:
    """A retraining, every value checked."""

    options: Options
    recipe: TrainingRecipe
    split: SplitRule
    rules: Rules


class Desk(Protocol):
    """Where a job's progress is written down; may raise to end the job."""

    def stage(self, name: str) -> None: ...

    def progress(self, share: float) -> None: ...

    def note(self, **facts: Any) -> None: ...


def parse(request: Mapping[str, Any]) -> Request:
    """A request as it was submitted: options, the recipe's fields and `gate` with rules, in one object. Raises `RequestError`."""
    known = {each: set(each.__struct_fields__) for each in (Options, TrainingRecipe)}
    for key in request:
        _check_key(key, known[Options] | known[TrainingRecipe] | {"gate"})
    given = request.get("gate") or {}
    if not isinstance(given, dict):
        raise RequestError("key 'gate' of the request must be an object of rules")
    for key in given:
        _check_key(key, set(Rules.__annotations__))
    try:
        options = msgspec.convert({k: v for k, v in request.items() if k in known[Options]}, Options)
        recipe = msgspec.convert({k: v for k, v in request.items() if k in known[TrainingRecipe]}, TrainingRecipe)
        judged = msgspec.convert(given, Rules)
        split = SplitRule(options.block_s, options.gap_s, options.val_share)
    except (msgspec.ValidationError, SplitError) as error:
        raise RequestError(f"the request cannot be followed: {error}") from error
    if options.starter_weights is not None and not _SHA256.fullmatch(options.starter_weights):
        raise RequestError(
            "starter_weights must be the SHA-256 of weights that this cloud holds; `edgecase-cloud train --starter-weights FILE` takes a "
            "file in"
        )
    return Request(options, recipe, split, judged)


@dataclass(frozen=True)
class Retraining:
    """One run of the circle's cloud side. `name` is the run's, unique in the data folder."""

    data: Path
    catalogue: Catalogue
    pictures: Pictures
    request: Request
    name: str
    at: datetime
    desk: Desk
    stop: threading.Event

    def run(self) -> None:
        """All stages in order. Raises what a stage raises; what was finished before stays."""
        folder = bundles.run_folder(self.data, self.name)
        shutil.rmtree(folder, ignore_errors=True)
        self.desk.stage("dataset")
        missing = training.missing_extra()
        if missing:
            raise training.TrainingFailed(missing)
        incumbent, package, start = self._incumbent()
        golden = self._golden()
        dataset, labelled = self._labelled()
        data_yaml = self._mix(folder / "mix", labelled, golden)
        self.desk.stage("train")
        trained = self._train(Run(folder, start, data_yaml, _export_like(package), self.request.recipe))
        candidate = self._pack(trained, package, dataset, golden)
        row = bundles.add(
            self.data,
            self.catalogue,
            candidate.path,
            weights=trained.weights,
            dataset_id=dataset.id,
            parent_digest=incumbent.digest,
        )
        self.desk.note(candidate_digest=row.digest, incumbent_digest=incumbent.digest)
        self.desk.stage("gate")
        report = self._judge(candidate, package, golden, labelled)
        bundles.add(self.data, self.catalogue, candidate.path, gate=report)
        self.desk.note(gate=report, passed=report["passed"])
        self.desk.stage("release")
        self._release(row.digest, passed=report["passed"])

    def _incumbent(self) -> tuple[Bundle, Package, Path]:
        """The incumbent, and the weights to start from."""
        with self.catalogue.session() as session:
            row = bundles.incumbent(session)
        if row is None:
            raise bundles.ModelError(
                "there is no model to start from; run: edgecase-cloud model import --bundle BUNDLE.tar --weights WEIGHTS.pt"
            )
        given = self.request.options.starter_weights
        start = bundles.kept_weights(self.data, given) if given else bundles.weights_path(self.data, row.digest)
        if start is None:
            raise bundles.ModelError(
                f"the incumbent {row.version} was imported without weights; give starter_weights, or import it with --weights"
            )
        if not start.is_file():
            raise bundles.ModelError(
                f"no weights {start.stem[:12]} (starter_weights) are here; run: edgecase-cloud train --starter-weights FILE"
            )
        return row, bundles.opened(self.data, row.digest), start.absolute()

    def _golden(self) -> list[tuple[Dataset, DatasetFolder]]:
        found = datasets.listed(self.catalogue, Kind.GOLDEN)
        if not found:
            raise gate.GateError(
                "there is no golden set to judge on; run: edgecase-cloud dataset import DIR --name golden --kind golden"
            )
        return [(each, datasets.opened(self.data, each)) for each in found]

    def _labelled(self) -> tuple[Dataset, DatasetFolder]:
        built = datasets.build_labelled(
            self.data, self.catalogue, self.pictures, rule=self.request.split, progress=self._share(0.0, 0.8)
        )
        self.desk.note(
            dataset_id=built.dataset.id, labelled_pictures=built.dataset.pictures, left_out=len(built.excluded)
        )
        return built.dataset, datasets.opened(self.data, built.dataset)

    def _mix(self, folder: Path, labelled: DatasetFolder, golden: Sequence[tuple[Dataset, DatasetFolder]]) -> Path:
        bases = [datasets.opened(self.data, each) for each in datasets.listed(self.catalogue, Kind.BASE)]
        options = self.request.options
        mix = training.write_mix(
            folder,
            labelled,
            bases,
            replay=options.replay,
            golden={picture.sha256 for _, each in golden for picture in each.pictures},
            seed=self.request.recipe.seed,
            repeat=options.labelled_repeat,
        )
        self.desk.note(learnt_pictures=mix.learnt, replayed_pictures=mix.replayed, held_out_pictures=mix.held_out)
        return mix.data_yaml

    def _train(self, run: Run) -> Trained:
        epochs: list[dict[str, Any]] = []

        def follow(event: Mapping[str, Any]) -> None:
            match event["event"]:
                case "batch":
                    share = event["epoch"] - 1 + min(1.0, event["done"] / max(1, event["of"]))
                    self.desk.progress(share / event["epochs"])
                case "epoch":
                    epochs.append({key: value for key, value in event.items() if key not in ("event", "epochs")})
                    self.desk.note(epochs=epochs)
                    self.desk.progress(event["epoch"] / event["epochs"])
                case "export":
                    self.desk.stage("export")

        try:
            trained = training.train(run, on_event=follow, stop=self.stop)
        except TrainingStopped as error:
            raise Stopped(str(error)) from error
        self.desk.note(train_seconds=trained.seconds)
        return trained

    def _pack(
        self, trained: Trained, parent: Package, dataset: Dataset, golden: Sequence[tuple[Dataset, DatasetFolder]]
    ) -> Package:
        samples = [sample for _, folder in golden for sample in _samples(folder)]
        runtime = Runtime(threads=self.request.options.gate_threads)
        try:
            onnx = with_features(trained.onnx, parent, samples)
            return pack(
                onnx,
                trained.onnx.with_name("candidate.tar"),
                name=parent.manifest.name,
                version=f"{self.at:%Y%m%d}-{self.name}",
                golden_pictures=golden_pictures([each for _, each in golden]),
                thresholds=parent.thresholds,
                lineage=Lineage(parent_digest=parent.digest, dataset_id=dataset.id, run=self.name),
                license=parent.manifest.license,
                calibration=calibration_of(onnx, parent.thresholds, samples, runtime),
                created_at=self.at.replace(microsecond=0),
            )
        except (BundleError, FeaturesError) as error:
            raise bundles.ModelError(f"the trained model cannot be packed: {error}") from error

    def _judge(
        self,
        candidate: Package,
        incumbent: Package,
        golden: Sequence[tuple[Dataset, DatasetFolder]],
        labelled: DatasetFolder,
    ) -> dict[str, Any]:
        held_out = samples_from_folder(labelled.path, "val") if labelled.of_split("val") else []
        return gate.compare(
            candidate,
            incumbent,
            golden_sets(golden),
            self.request.rules,
            runtime=Runtime(threads=self.request.options.gate_threads),
            aside=[GoldenSet(labelled.id, "held-out labels", held_out)] if held_out else [],
            progress=self._share(0.0, 1.0),
        )

    def _release(self, digest: str, *, passed: bool) -> None:
        options = self.request.options
        if not passed:
            self.desk.note(released=False, why_not="the gate did not pass it")
        elif not options.release:
            self.desk.note(released=False, why_not="the request asked for no release")
        else:
            row = bundles.publish(self.data, self.catalogue, digest, channel=options.channel)
            self.desk.note(released=True, release=row.release)

    def _share(self, low: float, high: float) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            if self.stop.is_set():
                raise Stopped("the worker is to end")
            self.desk.progress(low + (high - low) * done / max(1, total))

        return tell


def golden_sets(found: Sequence[tuple[Dataset, DatasetFolder]]) -> list[GoldenSet]:
    """Golden datasets as the gate takes them, all splits."""
    return [GoldenSet(row.id, row.name, _samples(folder)) for row, folder in found]


def _samples(folder: DatasetFolder) -> list[Sample]:
    return samples_from_folder(folder.path, None)


def _export_like(package: Package) -> Export:
    """The candidate takes the incumbent's place, so it has its shape."""
    shape = package.manifest.input
    return Export(shape.height_px, shape.width_px, shape.long_side_px, end2end=package.manifest.head == "end2end")


def golden_pictures(folders: Sequence[DatasetFolder]) -> list[Any]:
    """A few pictures of one size, from different conditions, on which every device checks the model."""
    sizes = Counter((each.width_px, each.height_px) for folder in folders for each in folder.pictures)
    size = max(sizes, key=lambda each: (sizes[each], each))
    home = {each.sha256: folder for folder in folders for each in folder.pictures}
    fitting = [each for folder in folders for each in folder.pictures if (each.width_px, each.height_px) == size]
    chosen = training.replay_sample(fitting, GOLDEN_PICTURES, seed=0)
    return [read_rgb(home[each.sha256].path / each.image) for each in chosen]


def _check_key(key: str, known: set[str]) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(sorted(known))}"
        raise RequestError(f"unknown key '{key}' in the request; {hint}")
