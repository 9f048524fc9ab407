"""`edgecase-model`: pack, inspect, verify, evaluate, calibrate and quantize a detector; check a policy; render the simulated street."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgecase_models import policy_cli
from edgecase_models.street.cli import render

if TYPE_CHECKING:
    from rich.console import Console

    from edgecase_models.bundle import Bundle
    from edgecase_models.calibration import CalibrationTable, HeldOut, Tally
    from edgecase_models.detector import Detector, Rgb
    from edgecase_models.evaluate import Evaluation

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command("street")(render)
app.add_typer(policy_cli.app, name="policy")

PICTURES = (".jpg", ".jpeg", ".png")
WHITENING_PICTURES = 200
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of one inference.")]


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="An ONNX export of an Ultralytics detector.")],
    out: Annotated[Path, typer.Argument(help="The bundle to write, for example car.edgecase.tar.")],
    golden: Annotated[
        Path, typer.Option(help="A picture, or a folder of them, on which every device checks the model.")
    ],
    name: Annotated[str, typer.Option(help="The model's name: a-z, 0-9, '.', '_', '-'.")],
    version: Annotated[str, typer.Option(help="This version's name, in the same alphabet.")],
    candidate: Annotated[float, typer.Option(help="Keep boxes down to this score for judging.")] = 0.03,
    score: Annotated[float, typer.Option(help="The operating point: a box from this score on is a detection.")] = 0.25,
    iou: Annotated[float, typer.Option(help="Suppress a box that a better one of its class overlaps by more.")] = 0.7,
    license: Annotated[str, typer.Option(help="The model's licence, as an SPDX id.")] = "",  # noqa: A002
    pictures: Annotated[int, typer.Option(min=1, max=32, help="How many golden pictures to take.")] = 2,
    features: Annotated[
        Path | None,
        typer.Option(
            help="A folder of pictures from the field: the model also gives its neck features, whitened on them."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle: the model, its manifest, and golden pictures with what it sees in them."""
    from edgecase_models.bundle import pack as pack_bundle
    from edgecase_models.detector import Thresholds

    with _one_line(), tempfile.TemporaryDirectory() as folder:
        bundle = pack_bundle(
            model if features is None else _with_features(model, Path(folder) / "features.onnx", features),
            out,
            name=name,
            version=version,
            golden_pictures=_of_one_size(_pictures(golden))[:pictures],
            thresholds=Thresholds(candidate, score, iou),
            license=license,
        )
    _show(bundle, as_json)


@app.command()
def inspect(bundle: Annotated[Path, typer.Argument(help="A bundle.")], as_json: Json = False) -> None:
    """Show what a bundle says of itself; every digest is checked."""
    from edgecase_models.bundle import Bundle

    with _one_line():
        opened = Bundle.open(bundle)
    _show(opened, as_json)


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="A bundle.")], threads: Threads = 1) -> None:
    """Run a bundle on its golden pictures on this machine; exit 2 where it does not see what it should."""
    from edgecase_models.bundle import Bundle
    from edgecase_models.detector import Runtime

    with _one_line():
        opened = Bundle.open(bundle)
        opened.verify_golden(Runtime(threads=threads))
    _out(
        f"✓ {opened.manifest.name} {opened.manifest.version} {opened.digest[:12]} sees its golden pictures as it should"
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A bundle, or an ONNX export.")],
    data: Annotated[Path, typer.Argument(help="A labelled folder in Ultralytics layout.")],
    split: Annotated[str, typer.Option(help="The split to score on.")] = "val",
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """COCO mAP through the device's own detector code, per class and per condition."""
    from rich.progress import track

    from edgecase_models.evaluate import evaluate as score
    from edgecase_models.evaluate import samples_from_folder

    with _one_line():
        detector = _detector(model, threads)
        samples = samples_from_folder(data, split)
        shown = track(samples, "scoring", disable=as_json or not sys.stderr.isatty(), console=_stderr())
        evaluation = score(detector, shown)
    if as_json:
        _out(json.dumps(evaluation.as_json()))
    else:
        _evaluation_table(evaluation)


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose scores are to be calibrated.")],
    data: Annotated[
        Path, typer.Argument(help="A labelled folder in Ultralytics layout that the model was not trained on.")
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write: the same model with its calibration table.")],
    split: Annotated[str, typer.Option(help="The split to fit on: 100 pictures or more, 300 are plenty.")] = "val",
    version: Annotated[str, typer.Option(help="The new bundle's version. Left out: the old one's and '-cal'.")] = "",
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Learn from labelled pictures how often a score is right, and store that in a new bundle."""
    from rich.progress import track

    from edgecase_models.bundle import Bundle
    from edgecase_models.calibration import MIN_FRAMES, fit, held_out, observations, require_frames, tally
    from edgecase_models.detector import Runtime
    from edgecase_models.evaluate import Layout, samples_from_folder

    with _one_line():
        old = Bundle.open(bundle)
        samples = samples_from_folder(data, split)
        require_frames(len(samples), 2 * MIN_FRAMES)
        detector = old.detector(Runtime(threads=threads))
        shown = track(samples, "calibrating", disable=as_json or not sys.stderr.isatty(), console=_stderr())
        observed = observations(detector, shown, Layout.read(data).names)
        table, checked = fit(observed, detector.names), held_out(observed, detector.names)
        new = old.recalibrated(out, table, version=version or f"{old.manifest.version}-cal")
        tallies = tally(observed, detector.names)
    if as_json:
        _out(json.dumps(_calibration_json(new, table, checked, tallies)))
    else:
        _calibration_table(new, table, checked, tallies)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="An ONNX export in float.")],
    out: Annotated[Path, typer.Argument(help="The int8 ONNX file to write.")],
    pictures: Annotated[Path, typer.Option(help="A folder of pictures from the field, to calibrate on.")],
    count: Annotated[int, typer.Option(min=8, help="How many of them to use.")] = 64,
) -> None:
    """Make a model int8, keeping the box decode in float. Evaluate the result before it ships."""
    from rich.progress import track

    from edgecase_models.quantize import quantize as to_int8

    with _one_line():
        samples = list(_pictures(pictures, limit=count))
        to_int8(model, out, track(samples, "calibrating", disable=not sys.stderr.isatty(), console=_stderr()))
    before, after = model.stat().st_size, out.stat().st_size
    _out(f"✓ {out}: {after / 1e6:.1f} MB, was {before / 1e6:.1f} MB; now run `edgecase-model evaluate` on both")


def _detector(model: Path, threads: int) -> Detector:
    from edgecase_models.bundle import Bundle
    from edgecase_models.detector import Detector, Runtime
    from edgecase_models.evaluate import CURVE_THRESHOLDS

    runtime = Runtime(threads=threads)
    if model.suffix == ".onnx":
        return Detector(model, runtime, CURVE_THRESHOLDS)
    return Bundle.open(model).detector(runtime, CURVE_THRESHOLDS)


def _with_features(model: Path, out: Path, pictures: Path) -> Path:
    from rich.progress import track

    from edgecase_models.features import add_features

    samples = _pictures(pictures, limit=WHITENING_PICTURES)
    add_features(model, out, track(samples, "whitening", disable=not sys.stderr.isatty(), console=_stderr()))
    return out


def _pictures(path: Path, limit: int = 1000) -> Iterator[Rgb]:
    """At most `limit` pictures of a folder, spread evenly over it: neighbours are often alike."""
    import cv2
    import numpy as np

    from edgecase_models.bundle import BundleError

    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise BundleError(f"{path}: no {', '.join(PICTURES)} pictures here")
    for file in files[:: -(-len(files) // limit)]:
        pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if pixels is None:
            raise BundleError(f"{file}: not a readable picture")
        yield np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _of_one_size(pictures: Iterator[Rgb]) -> list[Rgb]:
    first = next(pictures)
    return [first, *(picture for picture in pictures if picture.shape == first.shape)]


def _show(bundle: Bundle, as_json: bool) -> None:
    import msgspec

    manifest = bundle.manifest
    if as_json:
        _out(
            json.dumps(
                {
                    "digest": bundle.digest,
                    "size_bytes": bundle.path.stat().st_size,
                    "manifest": msgspec.to_builtins(manifest),
                }
            )
        )
        return
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    shape = (
        "dynamic" if manifest.input.height_px is None else f"{manifest.input.height_px} × {manifest.input.width_px} px"
    )
    limits = manifest.thresholds
    rows = {
        "bundle": f"{manifest.name} {manifest.version}",
        "digest": bundle.digest,
        "made": f"{manifest.created_at:%Y-%m-%d %H:%M} UTC",
        "classes": f"{len(manifest.classes)}: "
        + ", ".join(manifest.classes[:12])
        + (" …" if len(manifest.classes) > 12 else ""),
        "input": f"{shape}, stride {manifest.input.stride_px} px, {manifest.head} head",
        "thresholds": f"detection from {limits.score}, candidate from {limits.candidate}, IoU {limits.iou}",
        "parent": manifest.lineage.parent_digest or "none",
        "dataset": manifest.lineage.dataset_id or "none",
        "calibration": _calibration_line(bundle.calibration),
        "metrics": ", ".join(f"{key} {value:.3f}" for key, value in manifest.metrics.items()) or "none",
        "licence": manifest.license or "not stated",
        "size": f"{bundle.path.stat().st_size / 1e6:.1f} MB",
    }
    for key, value in rows.items():
        table.add_row(f"[bold]{key}", value)
    _stdout().print(table)


def _evaluation_table(evaluation: Evaluation) -> None:
    from rich.table import Table

    table = Table(
        "", "mAP50-95", "mAP50", "objects", title="COCO metric, per condition and per class", title_justify="left"
    )
    table.add_row("all", f"{evaluation.map50_95:.3f}", f"{evaluation.map50:.3f}", str(evaluation.count))
    for group in (evaluation.per_condition, evaluation.per_class):
        table.add_section()
        for key, row in group.items():
            table.add_row(key, f"{row.map50_95:.3f}", f"{row.map50:.3f}", str(row.count))
    _stdout().print(table)


def _calibration_line(table: CalibrationTable | None) -> str:
    return "none" if table is None else f"on {table.candidates:,} candidates of {table.frames:,} labelled frames"


def _calibration_json(
    bundle: Bundle, table: CalibrationTable, checked: HeldOut, tallies: dict[str, Tally]
) -> dict[str, Any]:
    return {
        "digest": bundle.digest,
        "version": bundle.manifest.version,
        "frames": table.frames,
        "candidates": table.candidates,
        "held_out": asdict(checked),
        "per_class": {
            name: asdict(tally) | {"offset": round(offset, 4), "quality": round(quality, 4)}
            for (name, tally), offset, quality in zip(
                tallies.items(), table.offsets.tolist(), table.quality.tolist(), strict=True
            )
        },
    }


def _calibration_table(bundle: Bundle, table: CalibrationTable, checked: HeldOut, tallies: dict[str, Tally]) -> None:
    from rich.table import Table

    shown = Table("", "objects", "candidates", "true", "offset", "quality")
    for (name, tally), offset, quality in zip(tallies.items(), table.offsets, table.quality, strict=True):
        if tally.objects or tally.candidates:
            counts = (str(count) for count in (tally.objects, tally.candidates, tally.hits))
            shown.add_row(name, *counts, f"{offset:+.2f}", f"{quality:.2f}")
    _stdout().print(shown)
    _out(
        f"calibration error (D-ECE) on {checked.frames} frames held out: "
        f"{checked.error_before:.4f} as it comes, {checked.error_after:.4f} calibrated"
    )
    _out(
        f"✓ {bundle.path}: {bundle.manifest.name} {bundle.manifest.version} {bundle.digest[:12]}, "
        f"calibrated {_calibration_line(table)}"
    )


@contextmanager
def _one_line() -> Iterator[None]:
    """Bad input ends the command with one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:  # every error of this package is a ValueError
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    _stderr().print(f"[red]error:[/red] {message.splitlines()[0]}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def _out(text: str) -> None:
    typer.echo(text)


def _stdout() -> Console:
    from rich.console import Console

    return Console()


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


if __name__ == "__main__":
    app()
