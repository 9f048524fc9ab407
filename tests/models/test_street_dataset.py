"""Rendered data sets: what Ultralytics reads, and a manifest that can be checked against the files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edgecase_models.street import CLASSES, Street, StreetError, StreetSpec
from edgecase_models.street.cli import parse_seeds, split_scenes
from edgecase_models.street.dataset import plan_samples, render_dataset

SIZE = (320, 180)


def test_every_picture_has_its_label_and_its_line(tmp_path: Path) -> None:
    samples = plan_samples(6, [1, 2], ["day", "night"], SIZE)
    rendered = render_dataset(tmp_path, samples, "train")
    assert rendered.pictures == 6
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for row in rows:
        jpeg = (tmp_path / row["image"]).read_bytes()
        assert hashlib.sha256(jpeg).hexdigest() == row["sha256"]
        assert (tmp_path / row["image"].replace("images/", "labels/")).with_suffix(".txt").exists()
        assert row["condition"] in ("day", "night")
        assert row["split"] == "train"


def test_labels_are_the_truth_in_shares_of_the_picture(tmp_path: Path) -> None:
    spec = StreetSpec(3, "day", *SIZE, pose="kerb")
    render_dataset(tmp_path, [(spec, 120)], "val")
    (label,) = (tmp_path / "labels" / "val").glob("*.txt")
    rows = np.loadtxt(label, ndmin=2)
    truth = Street(spec).truth(120)
    assert np.array_equal(rows[:, 0], truth.classes)
    corners = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], axis=1)
    assert np.allclose(corners * [320, 180, 320, 180], truth.boxes_xyxy_px, atol=1e-3)


def test_pictures_are_the_street_s_own(tmp_path: Path) -> None:
    spec = StreetSpec(3, "day", *SIZE)
    render_dataset(tmp_path, [(spec, 120)], "val")
    (image,) = (tmp_path / "images" / "val").glob("*.jpg")
    read = cv2.imread(str(image))
    assert np.abs(read[..., ::-1].astype(int) - Street(spec).image(120)).mean() < 4.0


def test_splits_are_added_and_a_used_one_is_refused(tmp_path: Path) -> None:
    render_dataset(tmp_path, plan_samples(1, [1], ["day"], SIZE), "train")
    render_dataset(tmp_path, plan_samples(1, [2], ["fog"], SIZE), "val")
    text = (tmp_path / "data.yaml").read_text()
    assert "train: images/train" in text
    assert "val: images/val" in text
    assert all(f": {name}" in text for name in CLASSES)
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 2
    with pytest.raises(StreetError, match="already"):
        render_dataset(tmp_path, plan_samples(1, [1], ["day"], SIZE), "train")


def test_a_plan_spreads_evenly() -> None:
    plan = plan_samples(10, [1, 2], ["day", "night"], SIZE, spacing_s=2.0, fps=10.0)
    assert len(plan) == 10
    per_street = [sum(spec == other for other, _ in plan) for spec in {spec for spec, _ in plan}]
    assert sorted(per_street) == [2, 2, 3, 3]
    assert plan[1][1] - plan[0][1] == 20


def test_the_command_writes_a_data_set_and_names_a_wrong_scene(tmp_path: Path) -> None:
    import typer

    from edgecase_models.street.cli import render

    app = typer.Typer()
    app.command()(render)
    runner = CliRunner()
    done = runner.invoke(app, [str(tmp_path / "a"), "--count", "2", "--seeds", "1-2", "--size", "320x180"])
    assert done.exit_code == 0
    assert len(list((tmp_path / "a" / "images" / "train").iterdir())) == 2
    wrong = runner.invoke(app, [str(tmp_path / "b"), "--scenes", "nihgt"])
    assert wrong.exit_code == 2
    assert "night" in wrong.output


def test_seeds_and_scenes_are_read_as_written() -> None:
    assert parse_seeds("1,2,5-7") == [1, 2, 5, 6, 7]
    assert split_scenes("day,night") == ["day", "night"]
    assert split_scenes("day:20,night:30") == ["day:20,night:30"]
    with pytest.raises(StreetError, match="whole number"):
        parse_seeds("1;2")
