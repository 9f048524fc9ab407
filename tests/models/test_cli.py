"""`edgecase-model` does what its help says, and tells bad input in one line with exit code 2."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edgecase_models.bundle import Bundle
from edgecase_models.cli import app


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + result.stderr
    if code:
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        return result.stderr
    return result.stdout


@pytest.fixture
def picture(tmp_path: Path, squares: np.ndarray) -> Path:
    path = tmp_path / "golden.png"
    cv2.imwrite(str(path), squares[..., ::-1])
    return path


@pytest.fixture
def labelled(tmp_path: Path, squares: np.ndarray) -> Path:
    """Two pictures, the second without the green square although its label is there."""
    folder = tmp_path / "labelled"
    for kind in ("images/val", "labels/val"):
        (folder / kind).mkdir(parents=True)
    label = "0 0.1875 0.3125 0.125 0.125\n1 0.8125 0.5625 0.125 0.125\n"
    blind = squares.copy()
    blind[64:80, 96:112] = 0
    for name, pixels in (("a", squares), ("b", blind)):
        cv2.imwrite(str(folder / "images" / "val" / f"{name}.png"), pixels[..., ::-1])
        (folder / "labels" / "val" / f"{name}.txt").write_text(label)
    (folder / "data.yaml").write_text("train: images/val\nval: images/val\nnames: {0: red, 1: green}\n")
    return folder


def test_pack_inspect_verify(tmp_path: Path, tiny: Path, picture: Path) -> None:
    out = tmp_path / "tiny.edgecase.tar"
    printed = json.loads(run("pack", tiny, out, "--golden", picture, "--name", "tiny", "--version", "7", "--json"))
    assert printed["digest"] == Bundle.open(out).digest
    assert json.loads(run("inspect", out, "--json"))["manifest"]["classes"] == ["red", "green"]
    assert printed["digest"] in run("inspect", out)
    assert "sees its golden pictures" in run("verify", out)


def test_evaluate_gives_the_coco_metric_per_class(tiny: Path, labelled: Path) -> None:
    told = json.loads(run("evaluate", tiny, labelled, "--json"))
    assert told["per_class"]["red"]["map50"] == pytest.approx(1.0)
    assert told["per_class"]["green"]["map50"] == pytest.approx(0.505, abs=0.01), (
        "one of two found: 51 of 101 recall points"
    )
    assert "green" in run("evaluate", tiny, labelled)


def test_street_renders_what_evaluate_reads(tmp_path: Path, tiny: Path) -> None:
    run(
        "street",
        tmp_path / "street",
        "--count",
        3,
        "--seeds",
        "4",
        "--scenes",
        "night",
        "--split",
        "val",
        "--size",
        "320x180",
    )
    told = json.loads(run("evaluate", tiny, tmp_path / "street", "--json"))
    assert told["pictures"] == 3
    assert told["map50_95"] == 0, "the tiny detector knows no street"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inspect", "absent.tar"], "absent.tar: no such file"),
        (["verify", "{tiny}"], "not a readable bundle"),
        (["pack", "{tiny}", "out.tar", "--golden", "nowhere", "--name", "x", "--version", "1"], "nowhere: no .jpg"),
        (
            ["pack", "{picture}", "out.tar", "--golden", "{picture}", "--name", "x", "--version", "1"],
            "ONNX Runtime cannot load",
        ),
        (
            ["pack", "{tiny}", "out.tar", "--golden", "{picture}", "--name", "../x", "--version", "1"],
            "manifest cannot be read",
        ),
        (
            ["pack", "{tiny}", "out.tar", "--golden", "{picture}", "--name", "x", "--version", "1", "--score", "2"],
            "candidate <= score",
        ),
        (["evaluate", "{tiny}", "nowhere"], "no data.yaml"),
        (["evaluate", "{tiny}", "{labelled}", "--split", "test"], "no split 'test'"),
        (["street", "{tmp}/s", "--scenes", "dya"], "did you mean 'day'"),
    ],
)
def test_bad_input_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny: Path,
    picture: Path,
    labelled: Path,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [each.format(tiny=tiny, picture=picture, labelled=labelled, tmp=tmp_path) for each in arguments]
    assert told in run(*given, code=2)


def test_quantize_needs_pictures_and_keeps_metadata(tmp_path: Path, tiny: Path, picture: Path) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    assert "too few" in run("quantize", tiny, tmp_path / "q.onnx", "--pictures", picture, code=2)
