"""Dataset versions: what was labelled, whole, as it was labelled, under an id that says so; and nothing that was altered."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the [cloud] extra is not installed")

from edgecase_cloud import datasets
from edgecase_cloud.catalogue import Review
from edgecase_cloud.dataset_files import Altered, DatasetError, DatasetFolder, DatasetWriter, LabelledPicture, sweep
from edgecase_cloud.datasets import Kind, build_labelled, import_folder
from edgecase_cloud.splits import SplitRule
from edgecase_models.evaluate import samples_from_folder
from support.labels import Labels, jpeg

EVERYTHING = SplitRule(val_share=0)


class Cloud(Labels):
    """What was labelled, and versions made of it."""

    def build(self, rule: SplitRule = EVERYTHING) -> datasets.Built:
        return build_labelled(self.data, self.catalogue, self.store, rule=rule)

    def folder(self, built: datasets.Built) -> DatasetFolder:
        return datasets.opened(self.data, built.dataset)


def versions(cloud: Cloud) -> list[str]:
    """What lies in the folder of versions, finished or not."""
    return [path.name for path in datasets.root(cloud.data).iterdir() if path.is_dir()]


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud.empty(tmp_path, "car", "person")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder in Ultralytics layout: three pictures of two conditions, its classes in another order than the table's."""
    folder = tmp_path / "source"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for number, (split, name) in enumerate([("train", "a b"), ("train", "ü"), ("val", "c")]):
        (folder / f"images/{split}/{name}.jpg").write_bytes(jpeg(100 + number))
        (folder / f"labels/{split}/{name}.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.4 0.4\n")
    (folder / "labels/train/a b.txt").write_text("2 0.5 0.5 0.5 0.5\n0 0.3 0.3 0 0.1\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [person, car, tram]\n")
    lines = [
        {"image": "images/train/a b.jpg", "condition": "day", "device": "pole-1"},
        {"image": "images/val/c.jpg", "condition": "fog", "note": "kept out of ours"},
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


# ---- built from annotations


def test_a_version_holds_the_newest_answer_of_every_accepted_or_corrected_frame(cloud: Cloud) -> None:
    first = cloud.frame(1, [(0, 0, 0, 32, 24)])
    cloud.answer(first, [(1, 16, 12, 48, 36)])
    cloud.frame(2, review=Review.ACCEPTED)
    cloud.frame(3, review=Review.REJECTED)
    cloud.frame(4, review=Review.OPEN)
    built = cloud.build()
    folder = cloud.folder(built)
    assert [picture.frame_id for picture in folder.pictures] == [f"{number:032x}" for number in (1, 2)]
    assert (folder.path / folder.pictures[0].label).read_text() == "1 0.500000 0.500000 0.500000 0.500000\n"
    assert (folder.path / folder.pictures[0].image).read_bytes() == jpeg(1)
    assert built.dataset.pictures == 2
    assert built.dataset.summary["classes"] == {"car": 1, "person": 1}


def test_a_rejected_answer_takes_the_frame_out_again(cloud: Cloud) -> None:
    cloud.frame(1)
    second = cloud.frame(2)
    cloud.answer(second, [], review=Review.REJECTED)
    assert cloud.build().dataset.pictures == 1


def test_the_same_answers_give_the_same_version_and_one_changed_box_another(cloud: Cloud) -> None:
    first = cloud.frame(1, [(0, 0, 0, 32, 24), (1, 2, 2, 9, 9)])
    once, again = cloud.build(), cloud.build()
    assert (once.created, again.created) == (True, False)
    assert once.dataset.id == again.dataset.id
    cloud.answer(first, [(1, 2, 2, 9, 9), (0, 0, 0, 32, 24)])
    assert cloud.build().dataset.id == once.dataset.id
    cloud.answer(first, [(1, 2, 2, 9, 9), (0, 0, 0, 32, 25)])
    assert cloud.build().dataset.id != once.dataset.id
    assert cloud.folder(once).id == once.dataset.id


def test_the_same_answers_elsewhere_give_the_same_id(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Cloud.empty(tmp_path / "other", "car", "person")
    for each in (cloud, other):
        for number in (1, 2, 3):
            each.frame(number, at_s=number)
    assert cloud.build().dataset.id == other.build().dataset.id


def test_a_frame_without_objects_is_learnt_from_as_background(cloud: Cloud) -> None:
    cloud.frame(1, [], review=Review.ACCEPTED)
    built = cloud.build()
    assert built.dataset.summary["backgrounds"] == 1
    (picture,) = cloud.folder(built).pictures
    assert (cloud.folder(built).path / picture.label).read_text() == ""


def test_near_duplicates_never_straddle_and_what_lies_between_is_named(cloud: Cloud) -> None:
    for number in range(60):
        cloud.frame(number, at_s=2.0 * number, device="cam-1" if number % 2 else "cam-2")
    rule = SplitRule(block_s=20, gap_s=5, val_share=0.4)
    built = cloud.build(rule)
    pictures = cloud.folder(built).pictures
    held = [each for each in pictures if each.split == "val"]
    learnt = [each for each in pictures if each.split == "train"]
    assert held
    assert learnt
    for one in held:
        for other in learnt:
            apart = datetime.fromisoformat(one.captured_at) - datetime.fromisoformat(other.captured_at)
            assert one.device != other.device or abs(apart.total_seconds()) >= 5
    assert len(built.excluded) + len(pictures) == 60
    assert {each.reason for each in built.excluded} == {"closer than 5 s to a picture that is learnt from"}


def test_a_single_block_is_learnt_from_rather_than_held_out(cloud: Cloud) -> None:
    cloud.frame(1)
    cloud.frame(2, at_s=1)
    splits = {each.split for each in cloud.folder(cloud.build(SplitRule(val_share=0.99))).pictures}
    assert splits == {"train"}


def test_boxes_are_clipped_to_the_picture_and_those_without_area_dropped(cloud: Cloud) -> None:
    cloud.frame(1, [(0, -32, 0, 32, 48), (0, 10, 10, 10, 20), (1, 70, 0, 90, 9)])
    folder = cloud.folder(cloud.build())
    assert (folder.path / folder.pictures[0].label).read_text() == "0 0.250000 0.500000 0.500000 1.000000\n"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"content": b"\xff\xd8 not a picture \xff\xd9"}, "not a picture that can be decoded"),
        ({"content": jpeg(1)[:-200]}, "the JPEG is cut off"),
        ({"content": b""}, "it is empty"),
        ({"content": jpeg(1, 32, 32)}, "the picture is 32 × 32 pixels, announced were 64 × 48"),
        ({"sha256": "0" * 64}, "not those that the device announced"),
        ({"boxes": [(7, 0, 0, 9, 9)]}, "class 7 is not in the class table of 2"),
    ],
)
def test_a_frame_that_cannot_be_used_is_left_out_with_its_reason(
    cloud: Cloud, broken: dict[str, object], reason: str
) -> None:
    cloud.frame(1)
    bad = cloud.frame(2, **broken)  # type: ignore[arg-type]
    built = cloud.build()
    assert [each.frame_id for each in built.excluded] == [bad]
    assert reason in built.excluded[0].reason
    assert built.dataset.summary["excluded"][0]["frame_id"] == bad
    assert built.dataset.pictures == 1


def test_a_lost_picture_is_left_out_with_its_reason(cloud: Cloud) -> None:
    cloud.frame(1)
    cloud.frame(2)
    del cloud.store["frames/cam-1/2.jpg"]
    assert cloud.build().excluded[0].reason == "its picture is not in the object store"


def test_identical_pictures_are_learnt_from_once(cloud: Cloud) -> None:
    cloud.frame(1)
    cloud.frame(2, content=jpeg(1), at_s=1)
    assert cloud.build().excluded[0].reason == "the same picture as an earlier frame"


def test_nothing_labelled_says_what_to_do(cloud: Cloud) -> None:
    with pytest.raises(DatasetError, match="no frame has an answer yet; accept or correct frames"):
        cloud.build()
    cloud.frame(1, review=Review.REJECTED)
    with pytest.raises(DatasetError, match="all 1 answers reject their frame"):
        cloud.build()


def test_nothing_usable_says_why_and_leaves_nothing_behind(cloud: Cloud) -> None:
    cloud.frame(1, content=b"gone")
    with pytest.raises(DatasetError, match="none of the 1 labelled frames can be learnt from: not a picture"):
        cloud.build()
    assert versions(cloud) == []
    assert datasets.listed(cloud.catalogue) == []


# ---- the id


@pytest.mark.parametrize("file", ["image", "label"])
def test_an_altered_file_is_refused_by_name(cloud: Cloud, file: str) -> None:
    cloud.frame(1)
    built = cloud.build()
    folder = cloud.folder(built)
    path = folder.path / getattr(folder.pictures[0], file)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(Altered, match=rf"{path.name} was altered or is missing; restore"):
        cloud.folder(built)


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        ("data.yaml", lambda text: text.replace("car", "van")),
        ("data.yaml", lambda text: text + "nc: 2\n"),
        ("manifest.jsonl", lambda text: text.replace('"train"', '"val"')),
        ("manifest.jsonl", lambda text: text + text),
        ("manifest.jsonl", lambda _: "{"),
    ],
)
def test_an_altered_description_is_refused(cloud: Cloud, name: str, alter: object) -> None:
    cloud.frame(1)
    built = cloud.build()
    path = cloud.folder(built).path / name
    path.write_text(alter(path.read_text()))  # type: ignore[operator]
    with pytest.raises(Altered):
        cloud.folder(built)


def test_a_picture_that_was_slipped_in_is_refused_but_a_cache_is_not(cloud: Cloud) -> None:
    cloud.frame(1)
    built = cloud.build()
    path = cloud.folder(built).path
    (path / "labels/train.cache").write_bytes(b"what Ultralytics leaves")
    cloud.folder(built)
    (path / "images/train/extra.jpg").write_bytes(jpeg(9))
    with pytest.raises(Altered, match=r"extra\.jpg does not belong"):
        cloud.folder(built)


def test_a_version_that_was_removed_says_so(cloud: Cloud) -> None:
    cloud.frame(1)
    built = cloud.build()
    (cloud.folder(built).path / "manifest.jsonl").unlink()
    with pytest.raises(Altered, match="is missing"):
        cloud.folder(built)


def test_what_a_killed_build_left_is_swept_but_not_what_is_being_written(cloud: Cloud) -> None:
    root = datasets.root(cloud.data)
    (root / ".0123.part/images").mkdir(parents=True)
    with DatasetWriter(root, ["car"]):
        assert sweep(root) == 0
    assert sweep(root) == 1
    assert versions(cloud) == []


def test_two_that_write_the_same_version_at_once_both_have_it(cloud: Cloud) -> None:
    picture = LabelledPicture("a", ".jpg", jpeg(1), "train", 64, 48, ())
    root = datasets.root(cloud.data)
    with DatasetWriter(root, ["car"]) as one, DatasetWriter(root, ["car"]) as other:
        assert one.add(picture)
        assert other.add(picture)
        assert one.finish().id == other.finish().id
    assert len(versions(cloud)) == 1


# ---- taken in from a folder


def test_an_imported_folder_is_copied_whole_with_the_class_tables_indices(cloud: Cloud, source: Path) -> None:
    built = import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE)
    folder = cloud.folder(built)
    assert folder.classes == ("car", "person", "tram")
    by_condition = {each.condition: each for each in folder.pictures}
    assert (folder.path / by_condition["day"].label).read_text() == "2 0.500000 0.500000 0.500000 0.500000\n"
    fog = (folder.path / by_condition["fog"].label).read_text().splitlines()
    assert fog == ["0 0.150000 0.150000 0.300000 0.300000", "1 0.500000 0.500000 0.250000 0.500000"]
    assert by_condition["day"].device == "pole-1"
    assert built.dataset.summary["boxes_without_area"] == 1
    assert built.dataset.summary["splits"] == {"train": 2, "val": 1}
    assert not any(path.is_symlink() for path in folder.path.rglob("*"))
    (source / "images/val/c.jpg").write_bytes(b"the source may change")
    cloud.folder(built)


def test_an_imported_version_reads_as_a_folder_of_samples(cloud: Cloud, source: Path) -> None:
    folder = cloud.folder(import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.GOLDEN))
    (sample,) = samples_from_folder(folder.path, "val")
    assert sample.condition == "fog"
    assert sorted(sample.classes) == ["car", "person"]
    assert len(samples_from_folder(folder.path, None)) == 3


def test_only_the_splits_that_are_asked_for_are_taken(cloud: Cloud, source: Path) -> None:
    built = import_folder(cloud.data, cloud.catalogue, source, name="held", kind=Kind.GOLDEN, only=["val"])
    assert built.dataset.summary["splits"] == {"val": 1}
    assert len(samples_from_folder(cloud.folder(built).path, None)) == 1


def test_the_same_folder_twice_is_one_version_and_never_both_base_and_golden(cloud: Cloud, source: Path) -> None:
    once = import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE)
    again = import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE)
    assert (again.dataset.id, again.created) == (once.dataset.id, False)
    with pytest.raises(DatasetError, match="a golden set must not be learnt from"):
        import_folder(cloud.data, cloud.catalogue, source, name="gold", kind=Kind.GOLDEN)


def test_an_unreadable_picture_stops_the_import_unless_it_may_be_skipped(cloud: Cloud, source: Path) -> None:
    (source / "images/train/ü.jpg").write_bytes(b"oops")
    with pytest.raises(DatasetError, match=r"1 of 3 pictures cannot be used \(ü\.jpg: not a picture"):
        import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE)
    built = import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE, skip_unreadable=True)
    assert built.dataset.pictures == 2
    assert built.dataset.summary["unreadable"] == ["ü.jpg: not a picture that can be decoded"]


def test_a_wrong_label_stops_the_import_and_changes_nothing(cloud: Cloud, source: Path) -> None:
    (source / "labels/val/c.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError, match=r"c\.txt:1: class 9 is not among the 3 names"):
        import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE)
    with cloud.catalogue.session() as session:
        assert datasets.class_names(session) == ("car", "person")
    assert versions(cloud) == []


def test_a_folder_without_data_yaml_says_what_is_expected(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Ultralytics layout"):
        import_folder(cloud.data, cloud.catalogue, tmp_path / "nowhere", name="x", kind=Kind.BASE)


def test_versions_are_found_by_name_and_by_the_beginning_of_their_id(cloud: Cloud, source: Path) -> None:
    built = import_folder(cloud.data, cloud.catalogue, source, name="street", kind=Kind.BASE)
    assert datasets.find(cloud.catalogue, "street").id == built.dataset.id
    assert datasets.find(cloud.catalogue, built.dataset.id[:8]).id == built.dataset.id
    with pytest.raises(DatasetError, match=r"no dataset is named or begins with 'road' \(street\)"):
        datasets.find(cloud.catalogue, "road")


def test_class_indices_are_given_once_and_never_change(cloud: Cloud) -> None:
    assert datasets.add_classes(cloud.catalogue, ["tram", "car"]) == {"tram": 2, "car": 0}
    assert datasets.add_classes(cloud.catalogue, ["bus", "tram"]) == {"bus": 3, "tram": 2}
