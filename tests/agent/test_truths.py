"""What a truth promises: what the labels say, in the detector's classes, or one line about what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecase_agent.capture import Objects
from edgecase_agent.truths import TruthError, Truths, read_truths
from edgecase_models.street import Street, StreetSpec
from support.pictures import a_folder

NAMES = ("red", "green")
HW_PX = (128, 128)


def of(truths: Truths, index: int, hw_px: tuple[int, int] = HW_PX) -> Objects:
    found = truths.of(index, hw_px)
    assert found is not None
    return found


# ---- MOT text ------------------------------------------------------------------------------------------------------


def mot(folder: Path, *lines: str) -> str:
    path = folder / "gt.txt"
    path.write_text("\n".join(lines))
    return str(path)


def read_mot(folder: Path, *lines: str, only: str | None = "green") -> Truths:
    return read_truths(mot(folder, *lines), "clip.mp4", NAMES, only)


def test_mot_rows_are_the_boxes_of_one_class_with_their_tracks(tmp_path: Path) -> None:
    truths = read_mot(tmp_path, "1,7,10,20,30,40,1,-1,-1,-1", "1,9,50,60,7,8", "", "3,7,11.5,20,30,40,1")
    first = of(truths, 0)
    assert first.boxes_xyxy_px.tolist() == [[10, 20, 40, 60], [50, 60, 57, 68]]
    assert first.classes.tolist() == [1, 1]
    assert first.tracks is not None
    assert first.tracks.tolist() == [7, 9]
    assert truths.judged.tolist() == [False, True]
    assert of(truths, 2).boxes_xyxy_px.tolist() == [[11.5, 20, 41.5, 60]]


def test_a_frame_between_labelled_ones_is_empty_and_one_outside_is_not_labelled(tmp_path: Path) -> None:
    truths = read_mot(tmp_path, "5,1,0,0,9,9", "2,1,0,0,9,9")
    assert len(of(truths, 2)) == 0
    assert [truths.of(index, HW_PX) is None for index in (0, 1, 4, 5)] == [True, False, False, True]


def test_a_row_whose_flag_is_0_does_not_count(tmp_path: Path) -> None:
    truths = read_mot(tmp_path, "1,1,0,0,9,9,0", "1,2,0,0,9,9,1")
    assert of(truths, 0).tracks.tolist() == [2]  # type: ignore[union-attr]


def test_boxes_are_cut_at_the_pictures_edge_and_what_lies_outside_is_gone(tmp_path: Path) -> None:
    truths = read_mot(tmp_path, "1,1,-10,120,30,40", "1,2,200,10,5,5")
    assert of(truths, 0).boxes_xyxy_px.tolist() == [[0, 120, 20, 128]]


def test_ids_of_minus_one_tell_no_object_from_another(tmp_path: Path) -> None:
    assert of(read_mot(tmp_path, "1,-1,0,0,9,9"), 0).tracks is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,1,0,0,9", "gt.txt:2: '1,1,0,0,9' is not frame,id"),
        ("one,1,0,0,9,9", "gt.txt:2"),
        ("1,1,0,0,nan,9", "gt.txt:2"),
        ("0,1,0,0,9,9", "counted from 1"),
        ("1.5,1,0,0,9,9", "counted from 1"),
        ("1,1,0,0,0,9", "0 × 9 pixels"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(TruthError, match=r"truth .*") as wrong:
        read_mot(tmp_path, "1,1,0,0,9,9", line)
    assert said in str(wrong.value)


def test_mot_text_needs_a_class_that_the_model_knows(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="--truth-class"):
        read_mot(tmp_path, "1,1,0,0,9,9", only=None)
    with pytest.raises(TruthError, match='no class "gren"; did you mean "green"'):
        read_mot(tmp_path, "1,1,0,0,9,9", only="gren")


def test_text_without_a_row_that_counts_is_no_truth(tmp_path: Path) -> None:
    for lines in ((), ("1,1,0,0,9,9,0",)):
        with pytest.raises(TruthError, match="no row"):
            read_mot(tmp_path, *lines)


def test_a_file_that_is_no_text_is_no_truth(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TruthError, match="cannot be read as text"):
        read_truths(str(tmp_path / "gt.txt"), "clip.mp4", NAMES, "red")


# ---- label files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures in Ultralytics layout; the second has no label file. Its classes are others, in another order."""
    a_folder(tmp_path / "images" / "val", 3)
    labels = tmp_path / "labels" / "val"
    labels.mkdir(parents=True)
    (labels / "00000.txt").write_text("2 0.5 0.5 0.25 0.5\n0 0.5 0.5 1 1\n")
    (labels / "00002.txt").write_text("1 0.125 0.25 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text("val: images/val\nnames: {0: blue, 1: red, 2: green}\n")
    return tmp_path


@pytest.mark.parametrize("given", [".", "labels/val"])
def test_label_files_are_read_in_the_models_classes(data: Path, given: str) -> None:
    truths = read_truths(str(data / given), str(data / "images" / "val"), NAMES)
    assert of(truths, 0).boxes_xyxy_px.tolist() == [[48, 32, 80, 96]]
    assert of(truths, 0).classes.tolist() == [1]
    assert of(truths, 0).tracks is None
    assert len(of(truths, 1)) == 0
    assert of(truths, 2, (64, 256)).boxes_xyxy_px.tolist() == [[0, 0, 64, 32]]
    assert truths.judged.tolist() == [True, True]


def test_one_class_alone_can_be_judged(data: Path) -> None:
    truths = read_truths(str(data), str(data / "images" / "val"), NAMES, "red")
    assert truths.judged.tolist() == [True, False]
    assert len(of(truths, 0)) == 0
    with pytest.raises(TruthError, match='the model knows no class "blue"'):
        read_truths(str(data), str(data / "images" / "val"), NAMES, "blue")


def test_without_names_the_classes_are_the_models(tmp_path: Path) -> None:
    a_folder(tmp_path / "deep" / "in" / "pictures", 1)
    labels = tmp_path / "other" / "deep" / "labels"
    labels.mkdir(parents=True)
    (labels / "00000.txt").write_text("1 0.5 0.5 0.5 0.5")
    truths = read_truths(str(labels), f"file://{tmp_path / 'deep' / 'in' / 'pictures'}", NAMES)
    assert of(truths, 0).classes.tolist() == [1]


def test_labels_that_match_no_picture_are_refused_with_what_was_looked_for(data: Path, tmp_path: Path) -> None:
    other = a_folder(tmp_path / "other", 2)
    for path in other.iterdir():
        path.rename(other / f"another-{path.name}")
    with pytest.raises(TruthError, match=r"none of the 2 pictures has a label file there.*another-00000\.txt"):
        read_truths(str(data / "labels" / "val"), str(other), NAMES)


def test_a_label_file_that_is_wrong_is_named_with_its_line(data: Path) -> None:
    (data / "labels" / "val" / "00002.txt").write_text("1 0.5 0.5 0.5 0.5\n1 2 3\n")
    with pytest.raises(TruthError, match=r"00002\.txt:2"):
        read_truths(str(data), str(data / "images" / "val"), NAMES)


def test_a_truth_of_other_classes_is_refused(data: Path) -> None:
    with pytest.raises(TruthError, match="shares no class with the model: blue, red, green there, cat in the model"):
        read_truths(str(data), str(data / "images" / "val"), ("cat",))


def test_label_files_are_not_for_a_video(data: Path) -> None:
    with pytest.raises(TruthError, match="give MOT text"):
        read_truths(str(data), "clip.mp4", NAMES)


def test_what_is_not_there_is_no_truth() -> None:
    with pytest.raises(TruthError, match="no such file or folder"):
        read_truths("nowhere", "clip.mp4", NAMES)


# ---- the simulation ------------------------------------------------------------------------------------------------


def test_a_simulated_street_knows_its_own_truth() -> None:
    uri = "sim://street?seed=3&width=320&height=180&frames=9"
    truths = read_truths("sim", uri, ("car", "person"))
    expected = Street(StreetSpec(seed=3, width_px=320, height_px=180)).truth(40)
    found = of(truths, 40, (180, 320))
    named = np.isin(expected.classes, (0, 3))  # person and car
    assert named.any()
    assert found.boxes_xyxy_px.tolist() == expected.boxes_xyxy_px[named].tolist()
    assert found.classes.tolist() == [{0: 1, 3: 0}[int(cls)] for cls in expected.classes[named]]
    assert found.tracks is not None
    assert found.tracks.tolist() == expected.track_ids[named].tolist()


def test_the_simulations_truth_is_for_the_simulation() -> None:
    with pytest.raises(TruthError, match=r"clip\.mp4 is no simulation"):
        read_truths("sim", "clip.mp4", NAMES)
