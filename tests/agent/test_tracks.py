"""What the tracks promise: an object keeps its id from frame to frame, no id comes twice, and each cue tells of what it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_agent.tracks import MOST_TRACKS, Cue, CueKind, Sighting, Tracks, missed_score
from edgecase_models.boxes import iou_matrix
from edgecase_models.bundle import Bundle
from edgecase_models.detections import Detections
from edgecase_models.street import Street, StreetSpec, Truth

STARTER = Path(__file__).parents[2] / "models" / "starter" / "starter.edgecase.tar"
OPERATING_POINT = 0.25
PICTURE = (360, 640)
Row = tuple[float, float, float, float, int]  # centre x and y, side, score, class


def seen(*rows: Row) -> Detections:
    boxes = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y, side, _, _ in rows]
    return Detections.of(boxes, [row[3] for row in rows], [row[4] for row in rows])


class Film:
    """Frames shown to the tracks one after another, a tenth of a second apart if nothing else is said."""

    def __init__(self, step_s: float = 0.1) -> None:
        self.tracks = Tracks()
        self.step_s = step_s
        self.now_s = 1000.0

    def frame(self, *rows: Row, step_s: float | None = None) -> Sighting:
        self.now_s += self.step_s if step_s is None else step_s
        return self.tracks.update(seen(*rows), OPERATING_POINT, self.now_s, PICTURE)

    def frames(self, count: int, *rows: Row) -> Sighting:
        for _ in range(count - 1):
            self.frame(*rows)
        return self.frame(*rows)


def one(sighting: Sighting) -> Cue:
    (cue,) = sighting.cues
    return cue


# ---- ids -------------------------------------------------------------------------------------------------------------


def test_an_object_that_moves_keeps_its_id_and_grows_older() -> None:
    film = Film()
    sightings = [film.frame((100 + 5 * index, 200, 50, 0.9, 0)) for index in range(40)]
    assert {int(sighting.ids[0]) for sighting in sightings} == {1}
    assert [int(sighting.ages[0]) for sighting in sightings] == list(range(1, 41))
    assert [sighting.cues for sighting in sightings] == [()] * 40


def test_candidates_far_below_the_operating_point_have_tracks_too() -> None:
    film = Film()
    first = film.frame((100, 100, 50, 0.9, 0), (300, 100, 50, 0.04, 1))
    assert film.frame((102, 100, 50, 0.9, 0), (302, 100, 50, 0.03, 1)).ids.tolist() == first.ids.tolist()


def test_the_order_of_the_candidates_does_not_matter() -> None:
    film = Film()
    film.frame((100, 100, 50, 0.9, 0), (300, 100, 50, 0.8, 0), (500, 100, 50, 0.1, 0))
    assert film.frame((500, 102, 50, 0.9, 0), (100, 102, 50, 0.8, 0), (300, 102, 50, 0.7, 0)).ids.tolist() == [3, 1, 2]


def test_of_two_boxes_in_one_place_each_class_goes_on_with_its_own() -> None:
    film = Film()
    film.frame((100, 100, 50, 0.8, 0), (100, 100, 50, 0.1, 1))
    assert film.frame((103, 100, 50, 0.8, 0), (102, 100, 50, 0.1, 1)).ids.tolist() == [1, 2]


@pytest.mark.parametrize(("after", "before"), [(0.7, 0.2), (0.3, 0.24)])
def test_an_object_whose_class_turns_keeps_its_id(after: float, before: float) -> None:
    film = Film()
    film.frames(3, (100, 100, 50, 0.8, 0), (100, 100, 50, 0.1, 1))
    assert film.frame((100, 100, 50, after, 1), (100, 100, 50, before, 0)).ids.tolist() == [1, 2]


def test_a_candidate_that_grows_faster_is_followed_by_its_speed() -> None:
    film, x = Film(), 50.0
    for step in range(0, 55, 5):
        x += step
        assert film.frame((x, 100, 50, 0.1, 0)).ids.tolist() == [1]


def test_a_track_waits_for_its_gap_by_the_clock_whatever_the_frame_rate() -> None:
    for step_s in (1 / 30, 0.1, 0.45):
        for gap_s, same in ((0.92, True), (1.6, False)):
            film = Film(step_s)
            film.frame((100, 100, 50, 0.9, 0))
            for _ in range(round(gap_s / step_s) - 1):
                film.frame()
            assert (film.frame((100, 100, 50, 0.9, 0)).ids[0] == 1) == same, (step_s, gap_s)


def test_a_first_step_beyond_the_own_box_is_followed_in_the_same_class_only() -> None:
    for cls, same in ((0, True), (1, False)):
        film = Film(0.5)
        film.frame((100, 100, 50, 0.9, 0))
        assert (film.frame((160, 100, 50, 0.9, cls)).ids[0] == 1) == same
    film = Film(0.5)
    assert [int(film.frame((100 + 70 * index, 100, 50, 0.9, 0)).ids[0]) for index in range(6)] == [1] * 6


def test_two_that_pass_each_other_keep_their_ids() -> None:
    film = Film()
    first = film.frame((200, 100, 40, 0.9, 0), (300, 100, 40, 0.8, 0)).ids.tolist()
    for index in range(1, 21):
        ids = film.frame((200 + 5 * index, 100, 40, 0.9, 0), (300 - 5 * index, 100, 40, 0.8, 0)).ids.tolist()
    assert ids == first


def test_frames_a_second_apart_still_follow_an_object_from_one_to_the_next() -> None:
    film = Film(1.07)
    assert [int(film.frame((100 + 10 * index, 100, 50, 0.9, 0)).ids[0]) for index in range(5)] == [1] * 5


@pytest.mark.parametrize(
    ("step_s", "picture"), [(-0.001, PICTURE), (5.1, PICTURE), (0.1, (720, 1280)), (float("nan"), PICTURE)]
)
def test_a_clock_set_back_a_long_pause_or_another_size_start_afresh(step_s: float, picture: tuple[int, int]) -> None:
    tracks = Tracks()
    row = (100.0, 100.0, 50.0, 0.9, 0)
    for now_s in (1000.0, 1000.1, 1000.2):
        tracks.update(seen(row), OPERATING_POINT, now_s, PICTURE)
    after = tracks.update(seen(row), OPERATING_POINT, 1000.2 + step_s, picture)
    assert (after.ids.tolist(), after.ages.tolist(), after.cues) == ([2], [1], ())
    assert len(tracks) == 1


def test_two_pictures_of_one_moment_are_no_trouble() -> None:
    film = Film()
    film.frame((100, 100, 50, 0.9, 0))
    film.frame((108, 100, 50, 0.9, 0), step_s=0)
    assert film.frame((108, 100, 50, 0.9, 0)).ids.tolist() == [1]


SCENE = st.lists(
    st.tuples(
        st.floats(-50, 700, width=32),
        st.floats(-50, 400, width=32),
        st.sampled_from([0.0, 5.0, 60.0, 300.0]),
        st.floats(0, 1, width=32),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(SCENE, st.sampled_from([0.0, 0.03, 0.1, 0.5, 1.0, 7.0, -1.0])), max_size=12))
def test_whatever_is_shown_no_id_comes_twice_and_every_cue_is_sound(frames: list[tuple[list[Row], float]]) -> None:
    film, ever, last = Film(), set[int](), dict[int, int]()
    for rows, step_s in frames:
        sighting = film.frame(*rows, step_s=step_s)
        ids = sighting.ids.tolist()
        assert len(ids) == len(set(ids)) == len(rows) == len(sighting.ages)
        for track_id, age in zip(ids, sighting.ages.tolist(), strict=True):
            assert age == last.get(track_id, 0) + 1  # a new id was never seen, an old one is a frame older
            last[track_id] = age
        ever.update(ids)
        assert ever == set(range(1, len(ever) + 1))
        assert all(0 <= cue.score <= 1 and cue.track_id in ever for cue in sighting.cues)
        assert 0 <= missed_score(sighting.cues) <= len({cue.track_id for cue in sighting.cues})


def test_ten_thousand_boxes_are_bounded_and_the_best_are_followed() -> None:
    chance = np.random.default_rng(0)
    low = chance.random((10_000, 2)) * 500
    boxes = np.concatenate([low, low + 20 + chance.random((10_000, 2)) * 100], axis=1).astype(np.float32)
    crowd = Detections(boxes, np.sort(chance.random(10_000).astype(np.float32))[::-1], np.zeros(10_000, np.int32))
    tracks = Tracks()
    first, second = (tracks.update(crowd, OPERATING_POINT, now_s, PICTURE) for now_s in (0.0, 0.1))
    assert len(tracks) <= MOST_TRACKS
    assert len(set(first.ids.tolist()) | set(second.ids.tolist()[MOST_TRACKS:])) == 20_000 - MOST_TRACKS
    assert (second.ids[:MOST_TRACKS] == first.ids[:MOST_TRACKS]).mean() > 0.9
    assert (second.ages[MOST_TRACKS:] == 1).all()


def test_what_is_remembered_does_not_grow() -> None:
    film, chance = Film(), np.random.default_rng(1)
    most = 0
    for _ in range(60):
        film.frame(*[(x, y, 40.0, s, 0) for x, y, s in chance.random((300, 3)) * (640, 360, 1)])
        most = max(most, len(film.tracks))
    assert most == MOST_TRACKS
    film.frame()
    film.frame(step_s=1.1)
    assert len(film.tracks) == 0


# ---- cues ------------------------------------------------------------------------------------------------------------


def test_a_reported_object_that_vanishes_in_mid_frame_is_a_gap() -> None:
    film = Film()
    film.frames(5, (300, 200, 50, 0.8, 0))
    cue = one(film.frame())
    assert (cue.kind, cue.track_id) == (CueKind.GAP, 1)
    assert cue.score == pytest.approx(0.8)
    assert one(film.frame()).score == pytest.approx(0.8)  # it is missing still
    assert film.frame(step_s=1.0).cues == ()


def test_what_is_found_in_its_place_makes_a_gap_weaker() -> None:
    film = Film()
    film.frames(5, (300, 200, 50, 0.8, 0), (420, 200, 200, 0.6, 1))
    cue = one(film.frame((330, 200, 220, 0.6, 1)))  # the larger one moves in front of it
    assert cue.kind is CueKind.GAP
    assert cue.score == pytest.approx(0.8 * (1 - 0.6))


def test_a_gap_is_expected_where_the_object_was_going() -> None:
    film = Film()
    for index in range(6):
        film.frame((500 + 20 * index, 200, 40, 0.8, 0))  # its end is at 620 now, and would be at 640
    assert film.frame().cues == ()


def test_who_was_never_reported_or_seen_only_once_leaves_no_gap() -> None:
    film = Film()
    film.frame((50, 50, 20, 0.1, 0))
    film.frame((50, 50, 20, 0.1, 0), (600, 300, 20, 0.9, 0))
    assert film.frame().cues == ()


def test_reported_again_after_a_dip_is_a_flicker() -> None:
    film = Film()
    film.frames(5, (300, 200, 50, 0.8, 0))
    dip = one(film.frame((300, 200, 50, 0.1, 0)))
    assert (dip.kind, dip.score) == (CueKind.SCORE_DROP, pytest.approx(0.7))
    again = one(film.frame((300, 200, 50, 0.8, 0)))
    assert again.kind is CueKind.FLICKER
    assert again.score == pytest.approx((0.8 + (0.1 - 0.8) / 6) * 0.9)


def test_reported_again_after_it_was_not_seen_at_all_is_a_full_flicker() -> None:
    film = Film()
    film.frames(5, (300, 200, 50, 0.8, 0))
    film.frame()
    again = one(film.frame((300, 200, 50, 0.8, 0)))
    assert (again.kind, again.track_id, again.score) == (CueKind.FLICKER, 1, pytest.approx(0.8))


def test_a_small_drop_and_one_at_the_border_are_no_cue() -> None:
    film = Film()
    film.frames(5, (300, 200, 50, 0.8, 0), (620, 200, 40, 0.8, 0))
    assert film.frame((300, 200, 50, 0.65, 0), (625, 200, 30, 0.3, 0)).cues == ()


def test_a_class_that_turns_is_a_cue_as_strong_as_the_weaker_of_the_two() -> None:
    film = Film()
    film.frames(5, (300, 200, 50, 0.8, 0))
    cue = one(film.frame((300, 200, 50, 0.7, 3)))
    assert (cue.kind, cue.track_id, cue.score) == (CueKind.CLASS_FLIP, 1, pytest.approx(0.7))
    assert film.frame((300, 200, 50, 0.7, 3)).cues == ()


def test_what_is_first_reported_in_mid_frame_was_missed_before() -> None:
    film = Film()
    film.frames(3)
    cue = one(film.frame((300, 200, 60, 0.6, 0)))
    assert (cue.kind, cue.track_id, cue.score) == (CueKind.BIRTH, 1, pytest.approx(0.4))
    assert film.frame((300, 200, 60, 0.6, 0)).cues == ()


def test_what_was_a_large_candidate_before_is_born_when_it_is_reported() -> None:
    film = Film()
    film.frames(5, (300, 200, 60, 0.2, 0))
    assert one(film.frame((300, 200, 60, 0.3, 0))).kind is CueKind.BIRTH


@pytest.mark.parametrize(
    "row",
    [(40, 200, 60, 0.6, 0), (300, 330, 60, 0.6, 0), (300, 200, 20, 0.6, 0)],
    ids=["at the side", "below", "far away"],
)
def test_nobody_is_born_near_the_border_or_far_away(row: Row) -> None:
    film = Film()
    film.frames(3)
    assert film.frame(row).cues == ()


def test_who_grew_out_of_the_distance_was_not_born_in_mid_frame() -> None:
    film = Film()
    for side in range(16, 60, 2):
        film.frame((300, 200, side, 0.1, 0))
    assert film.frame((300, 200, 60, 0.6, 0)).cues == ()


def test_at_one_frame_a_second_who_is_in_mid_frame_may_have_walked_in() -> None:
    film = Film(1.0)
    film.frames(3)
    assert film.frame((300, 200, 60, 0.6, 0)).cues == ()


def test_the_first_frame_has_no_cues() -> None:
    assert Film().frame((300, 200, 60, 0.6, 0)).cues == ()


def test_one_error_that_shows_in_two_ways_counts_once() -> None:
    cues = [Cue(CueKind.GAP, 0.5, 1), Cue(CueKind.FLICKER, 0.7, 1), Cue(CueKind.BIRTH, 0.2, 2)]
    assert missed_score(cues) == pytest.approx(0.9)
    assert missed_score([]) == 0.0


# ---- on a street whose truth is known --------------------------------------------------------------------------------


@dataclass
class Followed:
    """Of the objects that were reported, in object-frames: how often their id changed, and how often it was another's before."""

    found: int = 0
    switches: int = 0
    strangers: int = 0


def a_middling_detectors(boxes: np.ndarray, classes: np.ndarray, chance: np.random.Generator) -> Detections:
    """The truth with boxes that tremble by 3 %, one in ten scored below the operating point, one in thirty not seen; and six ghosts."""
    found = chance.random(len(boxes)) > 1 / 30
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    trembling = boxes + 0.03 * sides * chance.standard_normal(boxes.shape)
    scores = np.where(chance.random(len(boxes)) < 0.1, 0.1, 0.5 + 0.4 * chance.random(len(boxes)))
    low = chance.random((6, 2)) * (600, 330)
    ghosts = np.concatenate([low, low + 20 + 40 * chance.random((6, 2))], axis=1)
    every = np.concatenate([np.sort(trembling.reshape(-1, 2, 2), axis=1).reshape(-1, 4)[found], ghosts])
    return Detections(
        every.astype(np.float32),
        np.concatenate([scores[found], 0.03 + 0.1 * chance.random(6)]).astype(np.float32),
        np.concatenate([classes[found], chance.integers(0, 6, 6)]).astype(np.int32),
    )


@cache
def truth_of(pose: str) -> list[Truth]:
    """Fifteen seconds at ten frames a second."""
    street = Street(StreetSpec(seed=11, pose=pose))
    return [street.truth(index) for index in range(150)]


def followed(frames: Iterable[tuple[Truth, Detections]], fps: float) -> Followed:
    """Each object is followed by the candidate that overlaps it most, by half at least; an id that it had is preferred."""
    tracks, result = Tracks(), Followed()
    of_object, of_id = dict[int, int](), dict[int, int]()
    for index, (truth, detections) in enumerate(frames):
        ids = tracks.update(detections, OPERATING_POINT, index / fps, PICTURE).ids
        overlap = iou_matrix(truth.boxes_xyxy_px, detections.boxes_xyxy_px)
        overlap[:, detections.scores < OPERATING_POINT] = 0
        for row, track_id in enumerate(truth.track_ids.tolist()):
            there = [int(j) for j in np.flatnonzero(overlap[row] >= 0.5) if overlap[:, j].argmax() == row]
            if not there:
                continue
            had = of_object.get(track_id)
            best = int(ids[max(there, key=lambda j: overlap[row, j])])
            own_id = had if had in ids[there] else best
            result.found += 1
            result.switches += had is not None and own_id != had
            result.strangers += of_id.get(own_id, track_id) != track_id
            of_object[track_id], of_id[own_id] = own_id, track_id
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("fps", "most_per_100"), [(10, 2.0), (2, 10.0)])
@pytest.mark.parametrize("pose", ["kerb", "bridge"])
def test_ids_agree_with_those_of_the_street_s_truth(pose: str, fps: float, most_per_100: float) -> None:
    chance = np.random.default_rng(0)
    truth = truth_of(pose)[:: round(10 / fps)]
    frames = [(one, a_middling_detectors(one.boxes_xyxy_px, one.classes, chance)) for one in truth]
    result = followed(frames, fps)
    assert result.found > 100
    assert 100 * result.switches / result.found <= most_per_100
    assert 100 * result.strangers / result.found <= most_per_100 / 2


@pytest.mark.slow
def test_ids_agree_with_the_truth_where_the_starter_detector_looks() -> None:
    street, detector = Street(StreetSpec(seed=11, pose="kerb")), Bundle.open(STARTER).detector()
    seen_frames = (street.frame(index) for index in range(80))
    result = followed(((truth, detector.detect(picture)) for picture, truth in seen_frames), 10)
    assert result.found > 200
    assert 100 * result.switches / result.found <= 5
    assert 100 * result.strangers / result.found <= 2
