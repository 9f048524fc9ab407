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


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 pictures of one red square each: the tiny detector's score is its brightness, and it is an object with probability s²."""
    folder = tmp_path_factory.mktemp("doubtful")
    chance = np.random.default_rng(4)
    for kind in ("images/val", "labels/val"):
        (folder / kind).mkdir(parents=True)
    for number in range(100):
        pixels = np.zeros((128, 128, 3), np.uint8)
        brightness = chance.uniform(0.1, 1)
        pixels[32:48, 16:32, 2] = round(255 * brightness)
        cv2.imwrite(str(folder / "images" / "val" / f"{number:03}.png"), pixels)
        if chance.random() < (0.9 * brightness) ** 2:
            (folder / "labels" / "val" / f"{number:03}.txt").write_text("0 0.1875 0.3125 0.125 0.125\n")
    (folder / "data.yaml").write_text("val: images/val\nnames: {0: red, 1: green}\n")
    return folder


@pytest.fixture
def packed(tmp_path: Path, tiny: Path, picture: Path) -> Path:
    out = tmp_path / "tiny.edgecase.tar"
    run("pack", tiny, out, "--golden", picture, "--name", "tiny", "--version", "7")
    return out


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


def test_calibrate_makes_a_new_bundle_that_knows_what_its_scores_are_worth(
    tmp_path: Path, packed: Path, doubtful: Path
) -> None:
    told = json.loads(run("calibrate", packed, doubtful, "--out", tmp_path / "new.tar", "--json"))
    new = Bundle.open(tmp_path / "new.tar")
    assert told["digest"] == new.digest
    assert (new.manifest.name, new.manifest.version) == ("tiny", "7-cal")
    assert new.manifest.lineage.parent_digest == Bundle.open(packed).digest
    assert (told["frames"], told["candidates"]) == (100, 100)
    assert told["per_class"]["red"]["candidates"] == 100
    assert told["per_class"]["red"]["objects"] == told["per_class"]["red"]["hits"] > 20
    assert told["per_class"]["green"] | {"quality": 0, "offset": 0} == dict.fromkeys(
        ("objects", "candidates", "hits", "offset", "quality"), 0
    )
    assert told["held_out"]["frames"] == 50
    assert told["held_out"]["error_after"] < told["held_out"]["error_before"]
    table = new.calibration
    assert table is not None
    assert table(np.array([0.3, 0.7], np.float32), np.zeros(2, np.int32)) == pytest.approx([0.09, 0.49], abs=0.15)
    assert "100 candidates of 100 labelled frames" in run("inspect", tmp_path / "new.tar")
    printed = run("calibrate", packed, doubtful, "--out", tmp_path / "again.tar", "--version", "8")
    assert "held out" in printed
    assert Bundle.open(tmp_path / "again.tar").manifest.version == "8"


def test_pack_adds_features_on_request(tmp_path: Path, picture: Path) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    from support.necked_onnx import necked_detector
    from support.pictures import a_folder

    model = necked_detector(tmp_path / "necked.onnx")
    field = a_folder(tmp_path / "field", 9)
    named = ("--golden", picture, "--name", "necked", "--version", "1")
    run("pack", model, tmp_path / "out.tar", *named, "--features", field)
    assert Bundle.open(tmp_path / "out.tar").detector().feature_count == 24
    run("pack", model, tmp_path / "plain.tar", *named)
    assert Bundle.open(tmp_path / "plain.tar").detector().feature_count is None
    assert "too few to whiten" in run("pack", model, tmp_path / "odd.tar", *named, "--features", picture, code=2)


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
        (["calibrate", "{tiny}", "{labelled}", "--out", "new.tar"], "not a readable bundle"),
        (["calibrate", "{packed}", "nowhere", "--out", "new.tar"], "no data.yaml"),
        (["calibrate", "{packed}", "{labelled}", "--out", "new.tar", "--split", "test"], "no split 'test'"),
        (["calibrate", "{packed}", "{labelled}", "--out", "new.tar"], "2 labelled frames are too few"),
        (["calibrate", "{packed}", "{doubtful}", "--out", "new.tar", "--version", "/"], "manifest cannot be read"),
        (["street", "{tmp}/s", "--scenes", "dya"], "did you mean 'day'"),
    ],
)
def test_bad_input_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny: Path,
    picture: Path,
    labelled: Path,
    packed: Path,
    doubtful: Path,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"tiny": tiny, "picture": picture, "labelled": labelled, "packed": packed, "doubtful": doubtful}
    given = [each.format(tmp=tmp_path, **paths) for each in arguments]
    assert told in run(*given, code=2)


def test_quantize_needs_pictures_and_keeps_metadata(tmp_path: Path, tiny: Path, picture: Path) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    assert "too few" in run("quantize", tiny, tmp_path / "q.onnx", "--pictures", picture, code=2)
