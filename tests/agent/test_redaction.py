"""What redaction promises: what must not be seen is nowhere on the disk, nor on the line, and where nobody can tell, no pixels are."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from numpy.typing import NDArray
from structlog.testing import capture_logs

from edgecase_agent import assemble, encode, redaction
from edgecase_agent.frames import FrameMeta
from edgecase_agent.redaction import BLOCK_PX, Finder, RedactionError, Redactor, Terms
from edgecase_agent.running import Model
from edgecase_agent.settings import load_settings
from edgecase_agent.source import Frame, Picture, open_source
from edgecase_agent.spool import Spool
from edgecase_agent.watch import STAND_IN, Outcome, Shot
from edgecase_agent.watch_status import WatchStatus
from edgecase_models import wire
from edgecase_models.bundle import Bundle, pack
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector, Planes, Runtime
from support.bundles import a_bundle, expecting_more, rewritten
from support.tiny_onnx import GOLDEN

ROOT = Path(__file__).parents[2]
STREET, PEOPLE = (ROOT.parent / "shared" / name for name in ("footage/street-crowd-1080p.mp4", "weights/yolo11n.onnx"))

Rgb = NDArray[np.uint8]
SEEN, UNLIKELY = (32, 64), (96, 16)
"""Corners (top, left) of two cells that are to stay private: one that is detected, one that is a candidate below the operating point."""


def a_picture(seed: int, size_px: int = 128) -> Rgb:
    """Grey noise, a doubtful red cell, and two green cells of a texture that no other picture has."""
    chance = np.random.default_rng(seed)
    picture = chance.integers(60, 90, (size_px, size_px, 3), np.uint8)
    picture[0:16, 0:16] = (chance.integers(40, 120), 0, 0)
    for (top, left), most in ((SEEN, 256), (UNLIKELY, 60)):
        picture[top : top + 16, left : left + 16] = 0
        picture[top : top + 16, left : left + 16, 1] = chance.integers(0, most, (16, 16))
    return picture


def planes(picture: Rgb, *, full_range: bool = False) -> Planes:
    """The picture as a decoder gives it."""
    height, width = picture.shape[:2]
    even = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    i420 = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)
    rows, columns = even.shape[:2]
    u, v = i420[rows:].reshape(2, rows // 2, columns // 2)
    return Planes(i420[:height, :width], u, v, full_range)


def a_model(names: Sequence[str] = ("red", "green")) -> Model:
    return Model(Detector(GOLDEN, names=list(names)), "a" * 64, tuple(names), 0.25)


def a_shot(picture: Picture, redactor: Redactor, model: Model | None = None, jpeg: bytes = b"") -> Shot:
    model = model or a_model()
    frame = Frame(picture, 0, datetime(2026, 1, 1, tzinfo=UTC), 1)
    return Shot(frame, model, model.detector.detect(picture), 85, jpeg, redactor)


# ---- where to look -------------------------------------------------------------------------------------------------


@given(st.integers(1, 2200), st.integers(1, 4000), st.sampled_from([64, 320, 640, 961]), st.data())
def test_an_object_of_a_fifth_of_a_tile_lies_whole_in_one(
    height: int, width: int, tile_px: int, data: st.DataObject
) -> None:
    found = list(redaction.tiles((height, width), tile_px))
    assert found[0] == (0, 0, width, height)
    assert all(x1 % 2 == 0 and y1 % 2 == 0 and x2 - x1 > 0 and y2 - y1 > 0 for x1, y1, x2, y2 in found)
    assert all(x2 <= width and y2 <= height for _, _, x2, y2 in found)
    if max(height, width) <= tile_px:
        assert len(found) == 1
        return
    side = int(tile_px * redaction.OVERLAP) - 2
    across, down = min(side, width), min(side, height)
    left, top = data.draw(st.integers(0, width - across)), data.draw(st.integers(0, height - down))
    assert any(x1 <= left and y1 <= top and left + across <= x2 and top + down <= y2 for x1, y1, x2, y2 in found[1:])


def test_no_tile_is_asked_for_where_none_is_wanted() -> None:
    assert list(redaction.tiles((1080, 1920), 0)) == [(0, 0, 1920, 1080)]


@pytest.mark.parametrize("size", [(128, 128), (99, 131)])
def test_a_tile_of_planes_shows_what_the_same_tile_of_the_picture_shows(size: tuple[int, int]) -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8), (0, 0), 4)
    whole = planes(np.asarray(picture, np.uint8))
    for tile in redaction.tiles(size, 64):
        cut = redaction.crop(whole, tile)
        assert isinstance(cut, Planes)
        shown = redaction.crop(whole.rgb(), tile)
        assert cut.hw_px == shown.shape[:2]
        assert np.abs(cut.rgb().astype(int) - shown.astype(int)).mean() < 2


def test_a_candidate_that_another_class_leads_is_found_by_its_own_probability() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
    probabilities = np.array([[0.5, 0.06], [0.5, 0.04], [0.01, 0.07]], np.float32)
    seen = Detections(boxes, np.array([0.5, 0.5, 0.07]), np.array([0, 0, 1]), probabilities)
    assert redaction.found(seen, [1], 0.05)[:, 0].tolist() == [0, 40]
    assert redaction.found(replace(seen, probabilities=None), [1], 0.05)[:, 0].tolist() == [40]
    assert len(redaction.found(seen, [], 0.05)) == len(redaction.found(Detections.empty(), [1], 0.05)) == 0


BOX = st.tuples(st.floats(-20, 220), st.floats(-20, 170), st.floats(0, 90), st.floats(0, 90))


@given(st.lists(BOX, max_size=20), st.floats(0, 1))
def test_all_of_a_box_and_of_its_margin_that_is_in_the_picture_is_painted_over(
    boxes: list[tuple[float, ...]], margin: float
) -> None:
    height, width = 150, 203
    given_boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], np.float32).reshape(-1, 4)
    areas = redaction.grown(given_boxes, (height, width), margin)
    covered = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in areas:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert x1 % BLOCK_PX == y1 % BLOCK_PX == 0
        assert x2 % BLOCK_PX == 0 or x2 == width
        assert y2 % BLOCK_PX == 0 or y2 == height
        covered[y1:y2, x1:x2] = True
    for x, y, w, h in boxes:
        top, bottom = (int(np.clip(edge, 0, height)) for edge in (y - h * margin, np.ceil(y + h + h * margin)))
        left, right = (int(np.clip(edge, 0, width)) for edge in (x - w * margin, np.ceil(x + w + w * margin)))
        # A box that only touches the picture from outside shows nothing in it.
        if bottom - top > 1 and right - left > 1:
            assert covered[top + 1 : bottom - 1, left + 1 : right - 1].all()
    assert len(areas) == len(set(areas))


# ---- painting over -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rgb", "planes", "planes of odd size"])
def test_pictures_that_differ_only_where_they_are_painted_over_are_the_same_afterwards(kind: str) -> None:
    """So that nothing can be read from them, by whatever means: two faces of one mean colour give the same bytes."""
    height, width = (101, 119) if "odd" in kind else (96, 128)
    first = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    second = first.copy()
    areas = [(16, 16, 48, 64), (32, 48, 96, 96), (112, 0, width, 16)]
    groups = [np.zeros((height, width), np.bool_) for _ in range(2)]
    for (x1, y1, x2, y2), group in zip(areas, (groups[0], groups[0], groups[1]), strict=True):
        group[y1:y2, x1:x2] = True
    for group in groups:
        second[group] = np.random.default_rng(2).permutation(first[group])  # the same pixels, elsewhere
    pictures: list[Picture] = [first, second]
    if kind != "rgb":
        # Grey, since colour is averaged over four pixels when it is halved, and these do not move together.
        grey = [np.repeat(each[:, :, :1], 3, axis=2) for each in (first, second)]
        pictures = [planes(each) for each in grey]
    assert encode.jpeg(pictures[0]) != encode.jpeg(pictures[1])
    sent = [encode.jpeg(redaction.painted(picture, areas)) for picture in pictures]
    assert sent[0] == sent[1]
    small = [encode.thumbnail(redaction.painted(picture, areas)) for picture in pictures]
    assert small[0] == small[1]


def test_outside_nothing_changes_inside_each_connected_area_has_its_mean_and_the_original_stays() -> None:
    picture = a_picture(3)
    before = picture.copy()
    areas = [(16, 16, 48, 48), (48, 48, 64, 64), (96, 0, 128, 16)]
    painted = redaction.painted(picture, areas)
    assert isinstance(painted, np.ndarray)
    assert (picture == before).all()
    inside = np.zeros((128, 128), np.bool_)
    for x1, y1, x2, y2 in areas:
        inside[y1:y2, x1:x2] = True
    assert (painted[~inside] == picture[~inside]).all()
    touching = np.concatenate([picture[16:48, 16:48].reshape(-1, 3), picture[48:64, 48:64].reshape(-1, 3)])
    assert (painted[16:48, 16:48] == np.round(touching.mean(axis=0))).all()
    assert (painted[48:64, 48:64] == painted[20, 20]).all(), (
        "areas that touch share a colour, or many boxes would be a mosaic"
    )
    assert (painted[0:16, 96:128] == np.round(picture[0:16, 96:128].reshape(-1, 3).mean(axis=0))).all()
    assert redaction.painted(picture, []) is picture


# ---- a redactor ----------------------------------------------------------------------------------------------------


def test_a_bundle_finds_in_tiles_what_is_too_small_in_the_whole_picture(tmp_path: Path) -> None:
    a_bundle(tmp_path / "faces.tar")
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[208:224, 336:352, 1] = (
        160  # a sixteenth of a cell when the picture is scaled down, a good part of one in a tile
    )
    for tile_px, count in ((0, 0), (128, 1)):
        terms = Terms(bundle=tmp_path / "faces.tar", bundle_classes=("green",), tile_px=tile_px, min_score=0.1)
        cleared = Redactor(terms).clear(lambda: picture, np.zeros((0, 4), np.float32))
        assert (cleared.redaction.count > 0) == bool(count)
        assert (cleared.picture is picture) == (not count)
    (x1, y1, x2, y2), *_ = ((a.x1, a.y1, a.x2, a.y2) for a in cleared.redaction.boxes)
    assert x1 <= 328
    assert y1 <= 200
    assert x2 >= 344
    assert y2 >= 216


def test_the_largest_areas_are_named_and_all_are_counted_and_painted() -> None:
    height = width = 64 * 20
    boxes = np.array([(x, y, x + 6, y + 6) for y in range(4, height, 64) for x in range(4, width, 64)], np.float32)
    boxes[7, 2:] += 30
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cleared = Redactor(Terms(classes=("face",))).clear(lambda: picture, boxes)
    assert (cleared.redaction.count, len(cleared.redaction.boxes)) == (400, wire.MAX_BOXES)
    assert cleared.redaction.boxes[0].x1 <= boxes[7, 0] < boxes[7, 2] <= cleared.redaction.boxes[0].x2
    assert isinstance(cleared.picture, np.ndarray)
    assert all(
        cleared.picture[int(y), int(x)].tolist() == cleared.picture[int(y) + 5, int(x) + 5].tolist()
        for x, y, *_ in boxes
    )


def unusable(folder: Path) -> Iterator[tuple[str, Path, tuple[str, ...], str]]:
    whole = a_bundle(folder / "whole.tar")
    yield "missing", folder / "none.tar", (), "no such file"
    (folder / "torn.tar").write_bytes(whole.path.read_bytes()[:5000])
    yield "torn", folder / "torn.tar", (), "torn.tar"
    yield (
        "blind",
        rewritten(whole.path, folder / "blind.tar", golden=expecting_more),
        (),
        "does not work on this machine",
    )
    yield "of other classes", whole.path, ("face",), "finds no face; it finds red, green"


def test_without_a_redactor_that_works_no_pixels_leave_and_the_reason_is_told(tmp_path: Path) -> None:
    for name, path, classes, says in unusable(tmp_path):
        redactor = Redactor(Terms(bundle=path, bundle_classes=classes))
        shot = a_shot(a_picture(0), redactor)
        assert shot.jpeg == STAND_IN, name
        assert shot.thumbnail == b""
        assert shot.cleared is not None
        assert shot.cleared.failed
        assert str(shot.cleared.redaction.withheld).startswith("not searched: privacy.bundle: bundle")
        with pytest.raises(RedactionError) as told:
            redactor.suits(("red", "green"))
        assert says in str(told.value), name


def test_a_redactor_that_could_not_be_loaded_is_tried_again_once_a_minute(tmp_path: Path) -> None:
    now_s = [0.0]
    redactor = Redactor(Terms(bundle=tmp_path / "late.tar", bundle_classes=("green",)), clock=lambda: now_s[0])
    outcomes = []
    for at_s in (0, 30, 59, 61):
        now_s[0] = at_s
        outcomes.append(a_shot(a_picture(0), redactor).jpeg == STAND_IN)
        a_bundle(tmp_path / "late.tar")
    assert outcomes == [True, True, True, False]


def test_a_model_that_does_not_know_a_class_lets_no_pixels_leave() -> None:
    redactor = Redactor(Terms(classes=("gren",)))
    with pytest.raises(RedactionError, match=r'privacy.classes: the model knows no "gren"; did you mean "green"\?'):
        redactor.must_know(("red", "green"))
    assert a_shot(a_picture(0), redactor).jpeg == STAND_IN
    assert a_shot(a_picture(0), redactor).compact().jpeg == STAND_IN


def test_whatever_the_search_raises_no_pixels_leave() -> None:
    def broken() -> Picture:
        raise MemoryError

    cleared = Redactor(Terms(classes=("green",))).clear(broken, np.zeros((0, 4), np.float32))
    assert (cleared.picture, cleared.failed, cleared.redaction.withheld) == (None, True, "not searched: MemoryError")


@pytest.mark.parametrize("held", [False, True], ids=["as it came", "held for long"])
@pytest.mark.parametrize("kind", ["rgb", "planes"])
def test_a_shot_gives_the_redacted_picture_alone_even_where_it_was_encoded_before(kind: str, held: bool) -> None:
    picture: Picture = a_picture(5) if kind == "rgb" else planes(a_picture(5))
    raw = encode.jpeg(picture)
    shot = a_shot(picture, Redactor(Terms(classes=("green",), margin=0)), jpeg=raw)
    shot = shot.compact() if held else shot
    assert shot.size_bytes == len(raw) >= len(shot.jpeg)
    for content in (shot.jpeg, shot.thumbnail):
        sent = simplejpeg.decode_jpeg(content)
        assert all(
            np.ptp(sent[top + 2 : top + 14, left + 2 : left + 14], axis=(0, 1)).max() <= 3
            for top, left in (SEEN, UNLIKELY)
        )
        seen = picture.rgb() if isinstance(picture, Planes) else picture
        assert np.abs(sent[48:64].astype(int) - seen[48:64].astype(int)).mean() < 12


def test_what_shows_nothing_private_is_sent_as_it_was_encoded_first() -> None:
    picture = np.random.default_rng(0).integers(60, 90, (128, 128, 3), np.uint8)
    shot = a_shot(picture, Redactor(Terms(classes=("green",)))).compact()
    assert shot.jpeg == encode.jpeg(picture)
    assert shot.cleared is not None
    assert (shot.cleared.redaction.count, shot.cleared.redaction.withheld) == (0, UNSET)


def test_a_redacted_picture_is_no_larger_than_what_was_charged_for_it() -> None:
    """A comb of one colour on a picture of steps weighs more than what it covers; quality gives way, the budget does not."""
    steps = (np.arange(256) // 16 * 16).astype(np.uint8)
    picture = np.repeat(np.repeat(steps[None, :, None], 256, axis=0), 3, axis=2)
    boxes = np.array([(0, 0, 256, 16), *((x, 0, x + 16, 256) for x in range(16, 256, 32))], np.float32)
    model = replace(a_model(), detector=_Finds(boxes))  # type: ignore[arg-type]
    shot = a_shot(picture, Redactor(Terms(classes=("green",), margin=0)), model)
    charged = shot.size_bytes
    free = len(encode.jpeg(redaction.painted(picture, redaction.grown(boxes, (256, 256), 0))))
    assert len(shot.jpeg) <= charged < free


class _Finds:
    """A detector that finds these boxes, green, in every picture."""

    def __init__(self, boxes: NDArray[np.float32]) -> None:
        self._boxes = boxes

    def detect(self, picture: Picture) -> Detections:  # noqa: ARG002
        count = len(self._boxes)
        return Detections(self._boxes, np.full(count, 0.5), np.ones(count, int))


# ---- below the data folder -----------------------------------------------------------------------------------------

FRAMES = 24
SELECTION = """
[selection]
window_s = 4
gap_s = 3
audit_share = 0
repeat_bits = -1
context_frames = 1
context_before_s = 1
context_after_s = 1
budget = { frames_per_hour = 3600 }
[committee]
share = 0
[jpeg]
sample_every = 1
[spool]
min_free_bytes = 0
"""


@dataclass
class Kept:
    """What a run left: the frames in its spool, its last status, and what it logged."""

    data: Path
    frames: dict[int, tuple[bytes, FrameMeta]]
    status: WatchStatus
    logged: str
    balance: wire.Balance


class Site:
    """A device with a folder of pictures; `run` watches them to their end, through the real settings, watch and spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = [a_picture(seed) for seed in range(FRAMES)]
        (folder / "pictures").mkdir(parents=True)
        for index, picture in enumerate(self.pictures):
            cv2.imwrite(str(folder / "pictures" / f"{index:03}.png"), picture[:, :, ::-1])
        a_bundle(folder / "model.tar")

    def run(self, privacy: str = "", more: str = "") -> Kept:
        data = self.folder / f"data-{time.monotonic_ns()}"
        (data / "state").mkdir(parents=True)
        (data / "state" / "watch.json").write_text(
            '{"at": "2026-01-01T00:00:00Z", "privacy": "blur", "privacy_failure": "x"}'
        )
        path = self.folder / "agent.toml"
        path.write_text(
            f'data = "{data}"\n[source]\nuri = "pictures"\n[model]\nbundle = "model.tar"\n{SELECTION}[privacy]\n{privacy}\n{more}'
        )
        settings = load_settings(path)
        with capture_logs() as logs, Spool(data / "spool", 10_000_000, putting=True) as spool:
            watch = assemble.a_watch(settings, spool)
            while watch.step() is not Outcome.ENDED:
                pass
            watch.close()
            frames = {}
            for entry in spool.due(1000, 0):
                meta = spool.meta(entry)
                with spool.open(entry) as file:
                    frames[meta.frame_index] = file.read(), meta
            return Kept(data, frames, watch.status, repr(logs), spool.balance())

    def traces(self, kept: Kept) -> set[str]:
        """In which files below the data folder something of a private cell stands, in any form in which it could."""
        wanted = {name: mark for picture in self.pictures for name, mark in marks(picture).items()}
        assert len(wanted) == FRAMES * 6
        found = set()
        for path in kept.data.rglob("*"):
            content = path.read_bytes().strip(b"\0") if path.is_file() else b""  # the ballast is megabytes of zeros
            found |= {path.name} if any(mark in content for mark in wanted.values()) else set()
        with sqlite3.connect(kept.data / "spool" / "spool.db") as db:  # a value that SQLite has cut over several pages
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = db.execute(f"SELECT * FROM {table}").fetchall()
                content = b"\0".join(
                    cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row
                )
                found |= {table} if any(mark in content for mark in wanted.values()) else set()
        return found


def marks(picture: Rgb) -> dict[str, bytes]:
    """Bytes that are there only where the private cells are: pixels, JPEG and thumbnail, plain and as base64."""
    model = a_model()
    boxes = redaction.grown(redaction.found(model.detector.detect(picture), [1], 0.05), (128, 128), 0.2)
    painted = redaction.painted(picture, boxes)
    top, left = SEEN
    made = {
        "pixels": picture[top + 3, left : left + 16].tobytes(),
        "pixels, BGR": picture[top + 3, left : left + 16, ::-1].tobytes(),
    }
    for name, how in (("jpeg", encode.jpeg), ("thumbnail", encode.thumbnail)):
        seen, sent = how(picture), how(painted)
        first = next(place for place in range(len(seen)) if seen[place] != sent[place])  # the first private block
        made[name] = seen[first + 2 : first + 18]
        made[f"{name}, base64"] = base64.b64encode(seen)[first // 3 * 4 + 8 : first // 3 * 4 + 32]
    return {f"{name} {picture[0, 20]}": mark for name, mark in made.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_the_search_finds_what_leaks_where_nothing_is_redacted(site: Site) -> None:
    kept = site.run()
    assert (kept.status.privacy, kept.status.privacy_failure) == ("off", ""), "whatever an earlier run did"
    assert all(meta.redaction is UNSET for _, meta in kept.frames.values())
    found = site.traces(kept)
    assert any(name.endswith(".jpg") for name in found)
    files = b"".join(path.read_bytes() for path in (kept.data / "spool" / "frames").glob("*.jpg"))
    shown = [mark for picture in site.pictures for name, mark in marks(picture).items() if "thumbnail, base64" in name]
    assert any(mark in files for mark in shown), "in the description behind a picture"


BY_THE_MODEL = 'classes = ["green"]'
BY_A_BUNDLE = 'bundle = "model.tar"\nbundle_classes = ["green"]'


@pytest.mark.parametrize("privacy", [BY_THE_MODEL, BY_A_BUNDLE], ids=["the model's own classes", "a bundle"])
def test_nothing_private_is_written_below_the_data_folder_and_the_offer_tells_what_was_done(
    site: Site, privacy: str
) -> None:
    kept = site.run(privacy)
    assert site.traces(kept) == set()
    assert kept.balance.holds
    assert kept.balance.kept == len(kept.frames) == kept.status.redacted > 5
    assert (kept.status.privacy, kept.status.withheld, kept.status.privacy_failure) == ("blur", 0, "")
    assert kept.status.stages_ms.redact > 0
    assert any(meta.context_of is not UNSET for _, meta in kept.frames.values()), "frames beside a pick are among them"
    bundle = Bundle.open(site.folder / "model.tar")
    for index, (jpeg, meta) in kept.frames.items():
        for content in (jpeg, meta.thumbnail_jpeg):
            sent = simplejpeg.decode_jpeg(content)
            assert np.ptp(sent[32:48, 64:80], axis=(0, 1)).max() <= 3
            assert np.ptp(sent[96:112, 16:32], axis=(0, 1)).max() <= 3
            assert np.abs(sent[:16].astype(int) - site.pictures[index][:16].astype(int)).mean() < 12, (
                "the rest is as it was"
            )
        offer = meta.offer("cam-1", "a" * 64, len(jpeg))
        assert wire.decode_up(wire.encode(offer)) == offer
        told = offer.redaction
        assert isinstance(told, wire.Redaction)
        assert (told.mode, told.method, told.withheld) == ("blur", "fill", UNSET)
        assert told.count == len(told.boxes) == 2
        assert (told.classes, told.model_digest) == (
            (["green"], UNSET) if privacy == BY_THE_MODEL else ([], bundle.digest)
        )
        assert any(box.cls == 1 for box in offer.boxes), "what the model saw is still told"


def test_a_frame_that_shows_what_must_not_be_seen_is_dropped_down_to_what_is_known_of_it(site: Site) -> None:
    kept = site.run(f'mode = "drop"\n{BY_THE_MODEL}')
    assert site.traces(kept) == set()
    assert kept.balance.holds
    assert kept.balance.kept == len(kept.frames) == kept.status.withheld > 5
    assert (kept.status.redacted, kept.status.privacy_failure) == (0, "")
    for jpeg, meta in kept.frames.values():
        assert (jpeg, meta.thumbnail_jpeg, meta.features) == (STAND_IN, b"", UNSET)
        assert isinstance(meta.redaction, wire.Redaction)
        assert meta.redaction.withheld == "it shows what must not be seen, 2 times"
        assert meta.reasons
        assert meta.boxes


def test_without_a_redactor_the_camera_runs_on_and_no_pixels_are_written(site: Site) -> None:
    kept = site.run('bundle = "gone.tar"')
    assert site.traces(kept) == set()
    assert kept.balance.holds
    assert kept.balance.kept == kept.status.withheld > 5
    assert "gone.tar: no such file" in kept.status.privacy_failure
    assert kept.logged.count("frames are kept without their pixels") == 1
    assert {jpeg for jpeg, _ in kept.frames.values()} == {STAND_IN}


def test_a_slip_of_the_pen_in_a_class_of_the_model_placed_by_hand_is_refused_at_the_start(site: Site) -> None:
    with pytest.raises(RedactionError, match="did you mean"):
        site.run('classes = ["geen"]')


def test_of_several_frames_kept_at_once_one_is_searched_between_two_looks_and_none_is_forgotten(tmp_path: Path) -> None:
    site = Site(tmp_path)
    path = site.folder / "agent.toml"
    path.write_text(f'[source]\nuri = "pictures"\n[model]\nbundle = "model.tar"\n{SELECTION}[privacy]\n{BY_A_BUNDLE}\n')
    with Spool(tmp_path / "data" / "spool", 10_000_000, putting=True) as spool:
        watch = assemble.a_watch(load_settings(path), spool)
        counts = [0]
        while watch.step() is not Outcome.ENDED:
            counts.append(spool.balance().kept)
        watch.close()
        assert set(np.diff(counts)) == {0, 1}
        status = watch.status
        assert spool.balance().kept == status.selected + status.beside > counts[-1]


# ---- where it was --------------------------------------------------------------------------------------------------

EXACT = (48.137154, 11.576124)


@pytest.mark.parametrize(("privacy", "told"), [("", UNSET), ("position_decimals = 2", wire.Position(48.14, 11.58, 2))])
def test_campaigns_see_the_exact_position_and_nobody_else_more_than_may_be_told(
    site: Site, privacy: str, told: object
) -> None:
    vehicle = site.folder / "vehicle.json"
    vehicle.write_text(json.dumps({"latitude_deg": EXACT[0], "longitude_deg": EXACT[1]}))
    first = (site.folder / "pictures" / "000.png").stat().st_mtime
    os.utime(vehicle, (first, first))
    here = f"latitude_deg > {EXACT[0] - 1e-6} && longitude_deg < {EXACT[1] + 1e-6}"
    kept = site.run(
        privacy,
        f'[telemetry]\nfile = "vehicle.json"\nmax_age_s = 3600\n[[campaigns]]\nname = "here"\nwhen = "{here}"\nquota_per_day = 1000\n',
    )
    assert kept.status.telemetry is not None
    assert kept.status.telemetry.read == 1
    reasons = {reason.strategy for _, meta in kept.frames.values() for reason in meta.reasons}
    assert "campaign:here" in reasons
    assert {meta.position for _, meta in kept.frames.values()} == {told}
    written = b"".join(path.read_bytes() for path in kept.data.rglob("*") if path.is_file()) + kept.logged.encode()
    assert not any(str(number)[:7].encode() in written for number in EXACT)


# ---- what files carry beside their pixels --------------------------------------------------------------------------


def with_metadata(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with EXIF (orientation, a GPS position), XMP, an ICC profile and a comment, as a telephone writes them."""

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value.ljust(4, b"\0")

    where = b"48,8,13 SECRET-GPS"
    gps_at = 8 + 2 + 2 * 12 + 4
    text_at = gps_at + 2 + 12 + 4
    ifd0 = (
        b"\0\2"
        + entry(0x0112, 3, 1, orientation.to_bytes(2, "big"))
        + entry(0x8825, 4, 1, gps_at.to_bytes(4, "big"))
        + bytes(4)
    )
    gps = b"\0\1" + entry(0x001B, 7, len(where), text_at.to_bytes(4, "big")) + bytes(4)
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08" + ifd0 + gps + where
    parts = [
        (0xE1, exif),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>SECRET-XMP</x:xmpmeta>"),
        (0xE2, b"ICC_PROFILE\0\1\1SECRET-ICC"),
        (0xFE, b"SECRET-COMMENT"),
    ]
    segments = b"".join(b"\xff" + bytes([kind]) + (len(body) + 2).to_bytes(2, "big") + body for kind, body in parts)
    return jpeg[:2] + segments + jpeg[2:]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_nothing_but_the_upright_pixels_of_a_picture_file_travels(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((48, 96, 3), np.uint8)
    upright[:24, :48, 0] = upright[24:, 48:, 1] = 255
    turned = {1: upright, 3: np.rot90(upright, 2), 6: np.rot90(upright, 1), 8: np.rot90(upright, 3)}[orientation]
    content = with_metadata(simplejpeg.encode_jpeg(np.ascontiguousarray(turned), 95), orientation)
    assert content.count(b"SECRET") == 4
    (tmp_path / "photo.jpg").write_bytes(content)
    (frame,) = open_source(str(tmp_path))
    assert frame.hw_px == (48, 96)
    for redactor in (None, Redactor(Terms(classes=("green",)))):
        shot = Shot(frame, a_model(), Detections.empty(), 85, redactor=redactor)
        for sent in (shot.jpeg, shot.thumbnail):
            assert np.abs(simplejpeg.decode_jpeg(sent).astype(int) - upright.astype(int)).mean() < 8
            segments = {
                sent[place + 1] for place in range(len(sent) - 1) if sent[place] == 0xFF and sent[place + 1] >= 0xC0
            }
            assert not segments & {0xE1, 0xE2, 0xED, 0xFE}
            assert b"SECRET" not in sent


# ---- a real detector, a real street --------------------------------------------------------------------------------


@pytest.mark.skipif(not (STREET.exists() and PEOPLE.exists()), reason="needs ../shared: footage and detectors")
def test_on_a_real_street_no_person_is_found_any_more_in_what_leaves(tmp_path: Path) -> None:
    picture = redaction.crop(next(iter(open_source(str(STREET)))).picture, (560, 300, 1360, 940))
    golden = np.full((64, 64, 3), 114, np.uint8)
    pack(PEOPLE, tmp_path / "people.tar", name="people", version="1", golden_pictures=[golden])
    terms = Terms(bundle=tmp_path / "people.tar", bundle_classes=("person",))
    content = a_shot(picture, Redactor(terms)).jpeg
    finder = Finder(replace(terms, min_score=0.25), Runtime())
    assert len(finder.search(picture)) > 5
    assert len(finder.search(simplejpeg.decode_jpeg(content))) == 0
