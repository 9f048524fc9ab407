"""A cloud that can learn: a small detector that was really trained, what it was trained on, and a golden set."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecase_cloud import bundles, datasets, training
from edgecase_cloud.datasets import Kind
from edgecase_cloud.services import Services
from edgecase_cloud.training import Export, Run, Trained, TrainingRecipe, train
from edgecase_models.bundle import Bundle, pack
from edgecase_models.evaluate import read_rgb
from support import shapes
from support.labels import Labels

SQUARE = Export(shapes.SIZE_PX, shapes.SIZE_PX, shapes.SIZE_PX)


@dataclass(frozen=True)
class Starter:
    """The detector, packed, with its weights, and the events of its training. It has seen light pictures only."""

    bundle: Bundle
    trained: Trained
    events: tuple[Mapping[str, Any], ...]
    data: Path


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Starter:
    """One real training from scratch for all tests, in whichever process asks first."""
    missing = training.missing_extra()
    if missing:
        pytest.skip(missing)
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    kept = shared / "starter.pickle"
    with (shared / "starter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(_taught_from_scratch(shared / "starter")))
        trained, events, data = pickle.loads(kept.read_bytes())
    return Starter(Bundle.open(shared / "starter" / "starter.tar"), trained, events, data)


def _taught_from_scratch(folder: Path) -> tuple[Trained, tuple[Mapping[str, Any], ...], Path]:
    data = shapes.folder(folder / "data", 64)
    events: list[Mapping[str, Any]] = []
    recipe = TrainingRecipe(epochs=14, lr0=0.01, threads=1)
    run = Run(folder / "run", shapes.tiny_yaml(folder / "tiny.yaml"), data / "data.yaml", SQUARE, recipe)
    trained = train(run, on_event=events.append)
    picture = read_rgb(next((data / "images/train").iterdir()))
    pack(trained.onnx, folder / "starter.tar", name="shapes", version="starter", golden_pictures=[picture])
    return trained, tuple(events), data


def teach(parts: Services, starter: Starter, folder: Path, *, labels: int = 40) -> Labels:
    """Give a cloud the starter as its incumbent, a base set, a golden set half in the dark, and labelled dark frames."""
    data, catalogue = parts.settings.data, parts.catalogue
    bundles.register(data, catalogue, starter.bundle.path, starter.trained.weights)
    datasets.import_folder(data, catalogue, starter.data, name="base", kind=Kind.BASE)
    golden = shapes.folder(folder / "golden", 60, seed=5000, split="val", dark_every=2)
    datasets.import_folder(data, catalogue, golden, name="golden", kind=Kind.GOLDEN)
    desk = Labels(data, catalogue, parts.store)
    for number in range(labels):
        content, boxes = shapes.picture(8000 + number, dark=True)
        desk.frame(
            number,
            [(c, float(x1), float(y1), float(x2), float(y2)) for c, x1, y1, x2, y2 in boxes],
            at_s=7.0 * number,
            device=f"cam-{1 + number % 2}",
            content=content,
            size_px=(shapes.SIZE_PX, shapes.SIZE_PX),
        )
    return desk
