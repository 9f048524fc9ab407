"""Makes the starter detector: renders simulated streets by day, trains a small network from scratch, measures, exports and calibrates it.

    python models/starter/train.py --work build/starter            # about an hour of one core
    python models/starter/train.py --work build/starter --only measure,export
    python models/starter/train.py --work build/starter --only calibrate

Nothing is downloaded: the network starts from random weights. It needs the extra `train` (Ultralytics, AGPL-3.0).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecase_models.street import CLASSES, CONDITIONS
from edgecase_models.street.dataset import plan_samples, render_dataset

HERE = Path(__file__).parent

LONG_SIDE_PX = 384
RECTANGLE_HW = (224, 384)
"""A 640 x 360 frame at 384 pixels of width, filled up to whole strides of 32."""

SCALE = [0.5, 0.1875, 768]
"""Depth, width and most channels, in place of YOLO11n's 0.5, 0.25, 1024."""

TRAIN_SEEDS, VAL_SEEDS, DRIFT_SEEDS = range(1000, 1300), range(5000, 5030), range(6000, 6040)
"""Streets for training, for the measures below, and for trying out a fine-tune and calibrating; no street is in two of them."""

DAY_PICTURES, DUSK_PICTURES, VAL_PICTURES, CALIBRATION_PICTURES = 3060, 540, 120, 320

STEPS = "render,train,measure,export,pack,calibrate"

RECIPE: dict[str, Any] = {
    "epochs": 25,
    "batch": 16,
    "nbs": 16,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "lrf": 0.01,
    "cos_lr": True,
    "warmup_epochs": 1.0,
    "weight_decay": 0.01,
    "hsv_h": 0.015,
    "hsv_s": 0.6,
    "hsv_v": 0.6,
    "scale": 0.35,
    "translate": 0.08,
    "fliplr": 0.5,
    "mosaic": 0.0,
    "close_mosaic": 0,
    "seed": 0,
}
"""Rectangular training has no mosaic; variety comes from many streets instead."""


def render_sets(work: Path) -> None:
    """The training set under `work`/day, and one validation set for each condition under `work`/val-<condition>."""
    training = plan_samples(DAY_PICTURES, TRAIN_SEEDS, ["day"], spacing_s=7.0)
    training += plan_samples(DUSK_PICTURES, TRAIN_SEEDS[::4], ["dusk"], spacing_s=11.0)
    if not (work / "day" / "data.yaml").exists():
        shutil.rmtree(work / "day", ignore_errors=True)
        print(render_dataset(work / "day", training, "train"), flush=True)
        render_dataset(work / "day", plan_samples(VAL_PICTURES, VAL_SEEDS, ["day"], spacing_s=7.0), "val")
    for condition in CONDITIONS:
        folder = work / f"val-{condition}"
        if not (folder / "data.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
            print(
                render_dataset(folder, plan_samples(VAL_PICTURES, VAL_SEEDS, [condition], spacing_s=7.0), "val"),
                flush=True,
            )


def write_network(work: Path) -> Path:
    """YOLO11's own description with another scale and the street's classes."""
    import ultralytics
    import yaml

    source = Path(ultralytics.__file__).parent / "cfg" / "models" / "11" / "yolo11.yaml"
    network = yaml.safe_load(source.read_text(encoding="utf-8"))
    network |= {"nc": len(CLASSES), "scales": {"starter": SCALE}, "scale": "starter"}
    path = work / "starter-network.yaml"
    path.write_text(yaml.safe_dump(network), encoding="utf-8")
    return path


def train(work: Path, bf16: bool, epochs: int) -> Path:
    """Train from random weights; returns the best weights, stripped to half precision."""
    import torch
    from ultralytics import YOLO

    def speed_up(trainer: Any) -> None:
        """Ultralytics leaves both off on a CPU; together they save a third of the time where AVX512-BF16 is there."""
        model = trainer.model.to(memory_format=torch.channels_last)
        forward = model.forward

        def forward_bf16(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return forward(*args, **kwargs)

        model.forward = forward_bf16

    def tell(trainer: Any) -> None:
        measures = {name.removeprefix("metrics/"): round(float(value), 3) for name, value in trainer.metrics.items()}
        print(f"epoch {trainer.epoch + 1}/{trainer.epochs}", f"{time.process_time():.0f} CPU s", measures, flush=True)

    model = YOLO(str(write_network(work)))
    if bf16:
        model.add_callback("on_train_start", speed_up)
    model.add_callback("on_fit_epoch_end", tell)
    model.train(
        data=str(work / "day" / "data.yaml"),
        imgsz=LONG_SIDE_PX,
        rect=True,
        cache="ram",
        workers=0,
        device="cpu",
        amp=False,
        deterministic=False,
        plots=False,
        patience=0,
        project=str(work / "runs"),
        name="starter",
        exist_ok=True,
        **(RECIPE | {"epochs": epochs}),
    )
    best = work / "runs" / "starter" / "weights" / "best.pt"
    shutil.copyfile(best, HERE / "starter.pt")
    return best


def measure(work: Path, weights: Path) -> dict[str, dict[str, float]]:
    """mAP on held-out streets for each condition, at the rectangle that the device uses."""
    from ultralytics import YOLO

    model, rows = YOLO(str(weights)), {}
    for condition in CONDITIONS:
        data = work / f"val-{condition}" / "data.yaml"
        box = model.val(
            data=str(data), imgsz=LONG_SIDE_PX, rect=True, batch=16, workers=0, device="cpu", plots=False, verbose=False
        ).box
        rows[condition] = {"mAP50": round(float(box.map50), 3), "mAP50-95": round(float(box.map), 3)}
        rows[condition] |= {name: round(float(value), 3) for name, value in zip(CLASSES, box.maps, strict=True)}
    (work / "measures.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return rows


def export(weights: Path) -> Path:
    """The same network as ONNX, fixed to the rectangle, float32, boxes and scores undecoded by any NMS."""
    from ultralytics import YOLO

    made = YOLO(str(weights)).export(
        format="onnx", imgsz=list(RECTANGLE_HW), dynamic=False, simplify=True, device="cpu"
    )
    target = HERE / "starter.onnx"
    shutil.move(str(made), target)
    return target


def pack(onnx: Path) -> Path:
    """The bundle that the demo starts from; two street pictures, by day and by night, prove it on every machine."""
    from edgecase_models.bundle import pack as pack_bundle
    from edgecase_models.street import Street, StreetSpec

    golden = [Street(StreetSpec(seed=VAL_SEEDS[0], scene=scene)).image(400) for scene in ("day", "night")]
    bundle = pack_bundle(
        onnx,
        HERE / "starter.edgecase.tar",
        name="street",
        version="starter",
        golden_pictures=golden,
        license="AGPL-3.0-only",
        created_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    )
    onnx.unlink()
    return bundle.path


def calibrate(work: Path) -> Path:
    """The packed bundle once more, with an output of features and a calibration table, both from streets by day and at dusk.

    The model knows such light: what its scores are worth is learnt without seeing a drift.
    """
    from edgecase_models.bundle import Bundle
    from edgecase_models.bundle import pack as pack_bundle
    from edgecase_models.calibration import fit, held_out, observations
    from edgecase_models.evaluate import samples_from_folder
    from edgecase_models.features import add_features

    folder = work / "calibration"
    if not (folder / "data.yaml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        planned = plan_samples(CALIBRATION_PICTURES, DRIFT_SEEDS, ["day", "dusk"], spacing_s=7.0)
        print(render_dataset(folder, planned, "val"), flush=True)
    samples = samples_from_folder(folder, "val")
    packed = Bundle.open(HERE / "starter.edgecase.tar")
    detector = packed.detector()
    onnx = work / "starter.onnx"
    onnx.write_bytes(packed.model_bytes())
    if detector.feature_count is None:
        add_features(onnx, onnx, (sample.rgb() for sample in samples))
    observed = observations(detector, samples, detector.names)
    print("held out:", held_out(observed, detector.names), flush=True)
    manifest = packed.manifest
    bundle = pack_bundle(
        onnx,
        packed.path,
        name=manifest.name,
        version=manifest.version,
        golden_pictures=packed.golden().pictures,
        thresholds=packed.thresholds,
        license=manifest.license,
        calibration=fit(observed, detector.names),
        created_at=manifest.created_at,
    )
    return bundle.path


def main() -> None:
    """Run the steps that are asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="where pictures and runs go")
    parser.add_argument("--only", default=STEPS, help=f"steps, of {STEPS}")
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=False, help="for CPUs with AVX512-BF16"
    )
    options = parser.parse_args()
    os.environ["YOLO_OFFLINE"], os.environ["YOLO_AUTOINSTALL"] = "1", "0"
    work, steps = options.work.resolve(), options.only.split(",")
    work.mkdir(parents=True, exist_ok=True)
    if "render" in steps:
        render_sets(work)
    if "train" in steps:
        print("weights:", train(work, options.bf16, options.epochs))
    if "measure" in steps:
        print(json.dumps(measure(work, HERE / "starter.pt"), indent=2))
    if "export" in steps:
        print("exported:", export(HERE / "starter.pt"))
    if "pack" in steps:
        print("packed:", pack(HERE / "starter.onnx"))
    if "calibrate" in steps:
        print("calibrated:", calibrate(work))


if __name__ == "__main__":
    main()
