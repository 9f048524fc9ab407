"""What the committee promises: partners are found, disagreement is counted once, and the second member costs what was allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.committee import (
    Cascade,
    Disagreement,
    Flipped,
    Independent,
    SecondLook,
    Shadow,
    Shifted,
    View,
    disagreement,
    match,
)
from edgecase_agent.ranks import Ranks
from edgecase_agent.scoring import errors
from edgecase_models.boxes import Letterbox, iou_matrix
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector, Planes, StagesMs
from support.clips import squares
from support.tiny_onnx import GOLDEN

OPERATING_POINT = 0.25
EVERYWHERE = (0.0, 0.0, 1e6, 1e6)


def seen(*rows: tuple[float, float, int]) -> Detections:
    """Boxes of 10 pixels at x, with their score and class."""
    return Detections.of([(x, 0, x + 10, 10) for x, _, _ in rows], [s for _, s, _ in rows], [cls for _, _, cls in rows])


def sure_of(*rows: tuple[float, tuple[float, ...]]) -> Detections:
    """Boxes of 10 pixels at x, with their probabilities of each class."""
    p = np.array([row[1] for row in rows], np.float32)
    plain = seen(*((x, float(each.max()), int(each.argmax())) for (x, _), each in zip(rows, p, strict=True)))
    return Detections(plain.boxes_xyxy_px, plain.scores, plain.classes, p)


def entropy(*p: float) -> float:
    return sum(-q * log(q) - (1 - q) * log(1 - q) for q in p if 0 < q < 1)


def between(a: Detections, b: Detections) -> Disagreement:
    return disagreement(a, View(b, EVERYWHERE), OPERATING_POINT)


# ---- partners ------------------------------------------------------------------------------------------------------


def test_partners_share_class_and_place() -> None:
    a = seen((0, 0.9, 0), (50, 0.8, 1), (100, 0.7, 0))
    b = seen((1, 0.6, 0), (50, 0.5, 0), (104, 0.4, 0))
    matching = match(a, b)
    assert matching.pairs.tolist() == [[0, 0]]  # the second differs in class, the third overlaps by 6 of 14
    assert matching.only_a.tolist() == [1, 2]
    assert matching.only_b.tolist() == [1, 2]


def test_the_best_scored_box_chooses_first_and_nobody_has_two_partners() -> None:
    a = seen((0, 0.4, 0), (2, 0.9, 0))
    b = seen((1, 0.5, 0))
    matching = match(a, b)
    assert matching.pairs.tolist() == [[1, 0]]
    assert matching.only_a.tolist() == [0]


def test_a_box_takes_the_partner_that_overlaps_most() -> None:
    assert match(seen((0, 0.9, 0)), seen((3, 0.9, 0), (1, 0.2, 0))).pairs.tolist() == [[0, 1]]


def test_partners_of_any_class_are_found_when_asked_for() -> None:
    a, b = seen((0, 0.9, 0)), seen((0, 0.9, 1))
    assert match(a, b).pairs.tolist() == []
    assert match(a, b, same_class=False).pairs.tolist() == [[0, 0]]


def test_thousands_of_boxes_are_matched_as_a_few_are() -> None:
    """More than fit into one block of pairs, with boxes of no size and of boundless size among them."""
    chance = np.random.default_rng(2)
    corners = chance.integers(0, 60_000, (3000, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 40], axis=1)
    boxes[0], boxes[1] = [-3e38, -3e38, 3e38, 3e38], [5, 5, 5, 5]
    a = Detections(boxes, np.linspace(1, 0, 3000), np.zeros(3000))
    order = chance.permutation(3000)
    b = Detections(boxes[order] + np.float32(1), np.linspace(1, 0, 3000), np.zeros(3000))
    pairs = match(a, b).pairs
    assert len(pairs) >= 2990
    assert np.mean(order[pairs[:, 1]] == pairs[:, 0]) > 0.999


BOX = st.tuples(st.integers(0, 40), st.floats(0.03125, 1, width=32), st.integers(0, 1))


@given(st.lists(BOX, max_size=20), st.lists(BOX, max_size=20))
def test_every_detection_is_matched_or_alone_exactly_once(
    a_rows: list[tuple[float, float, int]], b_rows: list[tuple[float, float, int]]
) -> None:
    a, b = seen(*a_rows), seen(*b_rows)
    matching = match(a, b)
    assert sorted([*matching.pairs[:, 0], *matching.only_a]) == list(range(len(a)))
    assert sorted([*matching.pairs[:, 1], *matching.only_b]) == list(range(len(b)))
    overlap = iou_matrix(a.boxes_xyxy_px, b.boxes_xyxy_px)
    assert all(overlap[i, j] >= 0.5 and a.classes[i] == b.classes[j] for i, j in matching.pairs)
    assert not any(
        overlap[i, j] >= 0.5 and a.classes[i] == b.classes[j] for i in matching.only_a for j in matching.only_b
    )


# ---- disagreement --------------------------------------------------------------------------------------------------


def test_c_ede_is_the_error_expected_of_the_first_member_under_both() -> None:
    a = seen((0, 0.9, 0), (50, 0.3, 0), (100, 0.1, 0))
    b = seen((0, 0.7, 0), (100, 0.5, 0), (200, 0.6, 0))
    found = disagreement(a, View(b, EVERYWHERE), OPERATING_POINT)
    # 0.9/0.7 agree and are reported: 1-0.8; 0.3 alone is reported: 1-0.15; 0.1/0.5 is not reported by a: 0.3; 0.6 is b's alone: 0.3
    assert found.c_ede == pytest.approx(0.2 + 0.85 + 0.3 + 0.3)
    assert found.hard == 3


def test_the_errors_are_told_by_candidate_so_that_a_track_can_discount_them() -> None:
    a = seen((0, 0.9, 0), (50, 0.3, 0), (100, 0.1, 0))
    b = seen((200, 0.6, 0), (0, 0.7, 0), (100, 0.5, 0))
    found = between(a, b)
    assert found.errors == pytest.approx([0.2, 0.85, 0.3])
    assert found.only_second.boxes_xyxy_px.tolist() == [[200, 0, 210, 10]]
    assert found.only_second_errors == pytest.approx([0.3])


def test_what_the_second_alone_reports_is_missed_with_its_probability() -> None:
    a = seen((0, 0.9, 0), (50, 0.8, 0), (100, 0.2, 0))
    b = seen((0, 0.7, 0), (100, 0.5, 0), (200, 0.6, 0), (250, 0.1, 0))
    # 100: the first has no more than a candidate, mean 0.35; 200: it has nothing, mean 0.3; 250: the second does not report it either
    assert between(a, b).missed == pytest.approx(0.35 + 0.3)
    assert between(b, a).missed == pytest.approx(0.4)  # 50


def test_votes_differ_over_objects_that_one_member_alone_reports() -> None:
    a = seen((0, 0.9, 0), (50, 0.8, 0), (100, 0.1, 0))
    b = seen((0, 0.7, 0), (100, 0.2, 0), (200, 0.6, 0))
    assert between(a, b).vote_entropy == pytest.approx(2 * log(2))  # 50 and 200


def test_one_object_with_two_names_is_one_vote_and_two_disagreements() -> None:
    found = between(seen((0, 0.9, 0)), seen((1, 0.8, 1)))
    assert found.vote_entropy == pytest.approx(log(2))
    assert found.hard == 2


def test_what_the_members_tell_each_other_is_measured_on_scores_where_there_is_nothing_else() -> None:
    a, b = seen((0, 0.9, 0), (50, 0.4, 0)), seen((0, 0.5, 0), (100, 0.6, 0))
    consensus = entropy(0.7, 0.2, 0.3)
    own = (entropy(0.9, 0.4) + entropy(0.5, 0.6)) / 2
    for second in (b, Detections(b.boxes_xyxy_px, b.scores, b.classes, np.array([[0.5], [0.6]]))):
        found = between(a, second)
        assert found.consensus_entropy == pytest.approx(consensus, rel=1e-5)
        assert found.mutual_information == pytest.approx(consensus - own, rel=1e-5)


def test_what_the_members_tell_each_other_is_measured_over_all_classes_where_both_give_them() -> None:
    a, b = sure_of((0, (0.8, 0.3)), (50, (0.1, 0.4))), sure_of((0, (0.6, 0.1)))
    consensus = entropy(0.7, 0.2, 0.05, 0.2)
    found = between(a, b)
    assert found.consensus_entropy == pytest.approx(consensus, rel=1e-5)
    own = (entropy(0.8, 0.3, 0.1, 0.4) + entropy(0.6, 0.1)) / 2
    assert found.mutual_information == pytest.approx(consensus - own, rel=1e-5)


def test_certain_members_that_contradict_each_other_tell_the_most() -> None:
    found = between(seen((0, 1, 0)), Detections.empty())
    assert found.mutual_information == pytest.approx(log(2))
    assert found.consensus_entropy == pytest.approx(log(2))
    assert found.c_ede == 0.5


def test_errors_count_by_the_weight_of_their_class() -> None:
    a, b = seen((0, 0.9, 0), (50, 0.5, 1)), seen((100, 0.6, 1))
    found = disagreement(a, View(b, EVERYWHERE), OPERATING_POINT, weights=np.array([1.0, 3.0]))
    assert found.errors == pytest.approx([0.55, 3 * 0.75])
    assert found.only_second_errors == pytest.approx([3 * 0.3])
    assert found.c_ede == pytest.approx(0.55 + 2.25 + 0.9)


def test_a_calibration_that_gives_no_number_leaves_no_sound_score() -> None:
    found = disagreement(
        seen((0, 0.9, 0)), View(seen(), EVERYWHERE), OPERATING_POINT, lambda scores, _: scores * np.nan
    )
    assert np.isnan(found.c_ede)


def test_a_detection_at_the_operating_point_is_reported_by_either() -> None:
    found = disagreement(seen((0, 0.7, 0)), View(seen((0, 0.7, 0)), EVERYWHERE), 0.7)  # 0.7 as float32 is below 0.7
    assert found.hard == 0
    assert found.c_ede == pytest.approx(0.3)


def test_members_that_agree_leave_the_first_members_own_doubt() -> None:
    a = seen((0, 0.9, 0), (50, 0.1, 0))
    found = disagreement(a, View(a, EVERYWHERE), OPERATING_POINT)
    assert found.c_ede == pytest.approx(0.1 + 0.1)
    assert found.hard == 0


def test_what_the_second_member_could_not_see_counts_for_no_disagreement() -> None:
    a = seen((0, 0.9, 0), (95, 0.8, 0))
    found = disagreement(a, View(seen((0, 0.9, 0)), (0, 0, 96, 100)), OPERATING_POINT)
    assert found.hard == 0
    assert found.c_ede == pytest.approx(0.1 + 0.2)


def test_two_members_that_see_nothing_agree() -> None:
    found = disagreement(Detections.empty(), View(Detections.empty(), EVERYWHERE), OPERATING_POINT)
    assert (found.c_ede, found.hard, found.missed) == (0, 0, 0)
    assert (found.vote_entropy, found.consensus_entropy, found.mutual_information) == (0, 0, 0)
    assert (len(found.errors), len(found.only_second), len(found.only_second_errors)) == (0, 0, 0)


PLACES = st.lists(
    st.tuples(st.integers(0, 15), st.floats(0.03125, 1, width=32), st.integers(0, 1)),
    max_size=16,
    unique_by=lambda row: row[0],
)


@given(PLACES, PLACES)
def test_what_is_counted_of_both_is_bounded_and_the_same_from_either_side(
    a_rows: list[tuple[int, float, int]], b_rows: list[tuple[int, float, int]]
) -> None:
    a, b = (seen(*((20 * place, s, cls) for place, s, cls in rows)) for rows in (a_rows, b_rows))
    there, back = between(a, b), between(b, a)
    union = len(a) + len(there.only_second)
    assert there.hard == back.hard
    for name in ("vote_entropy", "consensus_entropy", "mutual_information"):
        assert getattr(there, name) == pytest.approx(getattr(back, name), abs=1e-5)
    assert 0 <= there.mutual_information <= there.consensus_entropy <= union * log(2) + 1e-4
    assert 0 <= there.vote_entropy <= there.hard * log(2) + 1e-9
    assert 0 <= there.missed <= there.c_ede <= union
    assert there.c_ede == pytest.approx(there.errors.sum() + there.only_second_errors.sum())
    assert there.missed + back.missed <= there.hard + 1e-6


@given(PLACES)
def test_a_second_member_that_says_the_same_adds_nothing(rows: list[tuple[int, float, int]]) -> None:
    a = seen(*((20 * place, s, cls) for place, s, cls in rows))
    found = between(a, a)
    assert found.errors == pytest.approx(errors(a, OPERATING_POINT))
    assert (found.hard, found.missed, found.vote_entropy) == (0, 0, 0)
    assert found.mutual_information == pytest.approx(0, abs=1e-5)


# ---- members -------------------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A detector that gives what it was told, whatever it is shown."""

    names: Sequence[str]
    says: Detections = field(default_factory=Detections.empty)
    stride_px: int = 32
    stages_ms: StagesMs = field(default_factory=StagesMs)

    def detect(self, *_: object, **__: object) -> Detections:
        return self.says

    def letterbox(self, picture: np.ndarray) -> Letterbox:
        return Letterbox.fit(picture.shape[:2], (128, 128))


def planes_of(rgb: np.ndarray) -> Planes:
    height, width = rgb.shape[:2]
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    chroma = i420[height:].reshape(2, height // 2, width // 2)
    return Planes(i420[:height], chroma[0], chroma[1])


def test_the_shifted_member_sees_the_same_objects_at_their_own_place() -> None:
    detector = Detector(GOLDEN)
    picture = squares(2)
    first = detector.detect(picture)
    view = Shifted().look(picture, detector)
    centres = [np.round(d.boxes_xyxy_px.reshape(-1, 2, 2).mean(axis=1)).mean(axis=0) for d in (first, view.detections)]
    assert np.abs(centres[0] - centres[1]).max() <= detector.stride_px
    assert view.seen_xyxy_px == (0, 0, 120, 120)  # eight pixels left the 128-pixel input on the right and below


def test_an_independent_member_is_understood_by_its_class_names(tmp_path: Path) -> None:
    from support.tiny_onnx import tiny_detector

    pytest.importorskip("onnx")
    other = Detector(tiny_detector(tmp_path / "other.onnx", names={0: "rose", 1: "green"}))
    incumbent = Detector(GOLDEN)  # red, green
    view = Independent(other).look(squares(0), incumbent)
    assert len(view.detections)
    assert set(view.detections.classes.tolist()) == {incumbent.names.index("green")}


@pytest.mark.parametrize("of", [np.asarray, planes_of])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 256), (300, 200)])
def test_the_flipped_member_sees_the_same_objects_at_their_own_place(
    of: Callable[[np.ndarray], Planes | np.ndarray], height: int, width: int
) -> None:
    detector = Detector(GOLDEN)
    picture = of(cv2.resize(squares(2), (width, height), interpolation=cv2.INTER_NEAREST))
    first = detector.detect(picture)
    view = Flipped().look(picture, detector)
    assert view.seen_xyxy_px == (0, 0, width, height)
    for cls in (0, 1):  # the cells lie elsewhere on the mirrored picture; what they cover does not
        one, other = (d.boxes_xyxy_px[(d.classes == cls) & (d.scores > 0.1)] for d in (first, view.detections))
        assert len(one) > 0
        cell_px = detector.stride_px * max(height, width) / 128
        assert np.abs(one[:, :2].min(axis=0) - other[:, :2].min(axis=0)).max() <= cell_px
        assert np.abs(one[:, 2:].max(axis=0) - other[:, 2:].max(axis=0)).max() <= cell_px


def test_the_flipped_member_looks_at_the_mirrored_picture() -> None:
    detector = Detector(GOLDEN)
    picture = cv2.resize(
        squares(2), (200, 300), interpolation=cv2.INTER_NEAREST
    )  # cells cut it differently from the right
    view = Flipped().look(picture, detector).detections
    mirrored = detector.detect(np.ascontiguousarray(picture[:, ::-1]))
    assert view.scores == pytest.approx(mirrored.scores)
    assert view.boxes_xyxy_px[:, 0] == pytest.approx(200 - mirrored.boxes_xyxy_px[:, 2])
    assert view.boxes_xyxy_px[0].tolist() != pytest.approx(detector.detect(picture).boxes_xyxy_px[0].tolist())


def test_an_independent_members_probabilities_are_those_of_the_incumbents_classes() -> None:
    says = sure_of((0, (0.1, 0.6, 0.2)), (50, (0.7, 0.3, 0.1)), (100, (0.1, 0.2, 0.5)))
    other = Scripted(("tram", "person", "car"), says)
    view = Independent(other, "d1g3st").look(squares(0), Scripted(("car", "bus", "person")))
    assert view.model_digest == "d1g3st"
    assert view.detections.classes.tolist() == [2, 0]  # the tram has no name here
    assert view.detections.boxes_xyxy_px[:, 0].tolist() == [0, 100]
    assert view.detections.probabilities == pytest.approx(np.array([[0.2, 0, 0.6], [0.5, 0, 0.2]]))
    assert view.knows is not None
    assert view.knows.tolist() == [True, False, True]


def test_a_class_that_the_second_member_does_not_have_counts_for_no_disagreement() -> None:
    incumbent = Scripted(("car", "bus"))
    view = Independent(Scripted(("car",))).look(squares(0), incumbent)
    found = disagreement(seen((0, 0.9, 0), (50, 0.8, 1), (90, 0.7, 6)), view, OPERATING_POINT)
    assert found.hard == 1
    assert found.errors == pytest.approx([0.55, 0.2, 0.3])


def test_members_without_a_common_class_leave_the_first_members_own_doubt() -> None:
    view = Independent(Scripted(("tram",), seen((0, 0.9, 0)))).look(squares(0), Scripted(("car",)))
    a = seen((0, 0.9, 0), (50, 0.1, 0))
    found = disagreement(a, view, OPERATING_POINT)
    assert found.c_ede == pytest.approx(0.2)
    assert (found.hard, found.mutual_information) == (0, 0)


def test_a_class_index_that_a_member_has_no_name_for_is_left_out() -> None:
    broken = Scripted(("car",), seen((0, 0.9, 0), (50, 0.8, 3)))
    assert len(Independent(broken).look(squares(0), Scripted(("car",))).detections) == 1


@dataclass
class Held:
    detector: Scripted
    digest: str


def test_the_candidate_looks_for_as_long_as_it_is_one() -> None:
    incumbent = Scripted(("car",), seen((0, 0.5, 0)))
    candidates = [
        None,
        Held(Scripted(("car",), seen((20, 0.9, 0))), "one"),
        Held(Scripted(("bus", "car"), seen((40, 0.8, 1))), "two"),
        Held(incumbent, "two"),  # it was released and runs
    ]
    member = Shadow(iter(candidates).__next__)
    views = [member.look(squares(0), incumbent) for _ in candidates]
    assert [view.model_digest for view in views] == ["", "one", "two", ""]
    assert [view.detections.boxes_xyxy_px[0, 0] for view in views] == [0, 20, 40, 0]
    assert views[2].detections.classes.tolist() == [0]


# ---- the cascade ---------------------------------------------------------------------------------------------------


def test_the_second_member_sees_the_most_doubtful_fifth() -> None:
    chance = np.random.default_rng(1)
    cascade = Cascade(share=0.2, random_share=0.0)
    values = chance.random(4000)
    asked = np.array([cascade.judge(value) is not None for value in values])
    assert 0.17 <= asked[500:].mean() <= 0.2
    assert values[500:][asked[500:]].min() > 0.75


def test_the_second_member_never_costs_more_than_its_share() -> None:
    cascade = Cascade(share=0.2, random_share=0.0)
    asked = sum(cascade.judge(float(value)) is not None for value in range(1000))  # every frame ranks highest
    assert asked <= 0.2 * 1000 + 8


def test_frames_in_which_nothing_is_doubtful_are_not_asked_about() -> None:
    cascade = Cascade(random_share=0.0)
    assert all(cascade.judge(0.0) is None for _ in range(1000))


def test_some_of_the_others_are_asked_at_random_with_their_known_share() -> None:
    cascade = Cascade(share=0.2, random_share=0.05, seed=3)
    looks = [cascade.judge(0.0) for _ in range(4000)]
    asked = [look for look in looks if look is not None]
    assert all(look.propensity == 0.05 for look in asked)
    assert 0.035 <= len(asked) / 4000 <= 0.065


def test_the_cascade_repeats_itself_given_its_seed() -> None:
    values = np.random.default_rng(5).random(500)
    one, other = Cascade(seed=9), Cascade(seed=9)
    assert [one.judge(value) for value in values] == [other.judge(value) for value in values]


def test_the_rank_is_taken_among_recent_frames_only() -> None:
    cascade = Cascade(share=0.2, random_share=0.0, window=50)
    for _ in range(200):
        cascade.judge(100.0)
    for _ in range(60):
        cascade.judge(1.0)
    assert cascade.judge(2.0) is not None


def test_the_rank_that_is_looked_at_follows_the_budget() -> None:
    values = np.random.default_rng(4).random(6000)
    cascade = Cascade(share=0.9, random_share=0.0)
    asked = np.array([cascade.judge(value, budget_share=0.02) is not None for value in values])
    assert values[600:][asked[600:]].min() > 0.87  # four times as many as can be kept
    assert 0.06 <= asked[600:].mean() <= 0.082
    assert all(cascade.judge(value, budget_share=0) is None for value in values[asked])


def test_a_look_says_how_many_frames_score_lower() -> None:
    cascade = Cascade(share=1.0, random_share=0.0)
    ranks = [cascade.judge(value) for value in (1.0, 2.0, 3.0, 2.5, 0.5)]
    assert ranks == [None, SecondLook(1, 1), SecondLook(1, 1), SecondLook(1, 2 / 3), None]


def test_a_rank_that_the_caller_knows_counts_as_one_that_the_cascade_finds_and_leaves_nothing_to_remember() -> None:
    values, ranks = np.random.default_rng(4).random(1000), Ranks()
    told, finding = Cascade(seed=1), Cascade(seed=1)
    for value in values:
        assert told.judge(value, rank=ranks.rank(value)) == finding.judge(value)
    assert len(told._ranks._recent) == 0
    with pytest.raises(ValueError, match="rank lies in"):
        told.judge(1.0, rank=1.5)


@pytest.mark.parametrize("compute_share", [0.05, 0.2])
def test_second_looks_take_no_more_of_the_time_than_was_allowed_over_any_stretch(compute_share: float) -> None:
    """Scores that rise, so that every frame ranks high; first looks that get slower and faster, second ones that cost twice as much."""
    chance = np.random.default_rng(8)
    cascade = Cascade(share=1.0, random_share=0.05, compute_share=compute_share, seed=2)
    first_ms = 10 * (1 + (np.arange(8000) // 1000) % 3) * chance.uniform(0.8, 1.2, 8000)
    second_ms = np.zeros(8000)
    for index, took_ms in enumerate(first_ms):
        if cascade.judge(float(index), took_ms) is not None:
            second_ms[index] = 2 * took_ms
            cascade.looked(second_ms[index])
    allowed = compute_share / (1 - compute_share)
    beyond_ms = np.concatenate([[0], np.cumsum(second_ms - allowed * first_ms)])
    worst_ms = (beyond_ms - np.minimum.accumulate(beyond_ms)).max()
    assert worst_ms <= 17 * 2 * 36  # eight looks saved, and eight and the last one owed, each at its dearest
    share = second_ms.sum() / (second_ms.sum() + first_ms.sum())
    assert 0.95 * compute_share <= share <= compute_share * 1.01
    assert cascade.without_chance == 0


def test_random_looks_get_rarer_beforehand_where_the_time_does_not_allow_them() -> None:
    cascade = Cascade(share=0.0, random_share=0.5, compute_share=0.1, seed=1)
    looks = []
    for _ in range(20_000):
        look = cascade.judge(1.0, 10.0)
        if look is not None:
            cascade.looked(10.0)
            looks.append(look.propensity)
    assert looks[100:] == pytest.approx([0.1 / 0.9 / 2] * len(looks[100:]))
    assert sum(1 / each for each in looks) == pytest.approx(20_000, rel=0.1)
    assert cascade.without_chance == 0


def test_a_frame_has_no_chance_only_after_a_stall_and_is_counted() -> None:
    cascade = Cascade(share=0.0, random_share=0.5, compute_share=0.1, seed=1)
    asked = [cascade.judge(1.0, 10.0) for _ in range(100)]
    assert any(asked)
    cascade.looked(10.0)
    while cascade.judge(1.0, 10.0) is None:
        pass
    cascade.looked(60_000.0)
    assert all(cascade.judge(1.0, 10.0) is None for _ in range(100))
    assert cascade.without_chance == 100


def test_a_look_that_failed_counts_as_a_usual_one() -> None:
    cascade = Cascade(share=1.0, random_share=0.0, compute_share=0.2)
    asked = sum(cascade.judge(float(index), 10.0) is not None for index in range(4000))
    assert asked / 4000 == pytest.approx(0.25, abs=0.01)


@dataclass
class World:
    """Frames whose first score tells part of what a second look would: doubtful stretches, and errors that the first score does not see."""

    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, frames: int) -> World:
        chance = np.random.default_rng(11)
        level = np.exp(np.convolve(chance.normal(0, 1, frames + 49), np.ones(50) / sqrt(50), "valid"))
        hidden = np.where(chance.random(frames) < 0.1, 2.0, 0.0)
        return cls(level, level * chance.uniform(0.5, 1.5, frames) + hidden)


@pytest.mark.parametrize("compute_share", [1.0, 0.1])
def test_the_mean_c_ede_is_estimated_without_bias(compute_share: float) -> None:
    """The weighted mean over many seeds lies within its standard error of the truth, where the plain mean of the looks is far off."""
    world = World.of(1000)
    truth = world.second.mean()
    weighted, plain, aided = [], [], []
    for seed in range(300):
        cascade = Cascade(share=0.2, random_share=0.05, window=200, seed=seed, compute_share=compute_share)
        total = difference = 0.0
        found = []
        for x, y in zip(world.first.tolist(), world.second.tolist(), strict=True):
            look = cascade.judge(x, 10.0)
            if look is not None:
                cascade.looked(10.0)
                total += y / look.propensity
                difference += (y - x) / look.propensity
                found.append(y)
        assert cascade.without_chance == 0
        weighted.append(total / 1000)
        aided.append(world.first.mean() + difference / 1000)
        plain.append(np.mean(found))
    for estimates in (weighted, aided):
        error = np.std(estimates) / sqrt(len(estimates))
        assert abs(np.mean(estimates) - truth) <= 3 * error
        assert error < 0.03 * truth
    assert np.std(aided) < np.std(weighted)
    assert abs(np.mean(plain) - truth) > 0.2 * truth


def test_shares_that_are_none_are_refused() -> None:
    for wrong in (
        {"share": 1.1},
        {"random_share": -0.1},
        {"compute_share": 0.0},
        {"compute_share": 2.0},
        {"window": 0},
    ):
        with pytest.raises(ValueError, match="shares lie in"):
            Cascade(**wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_score_and_no_time_is_refused_and_leaves_the_cascade_as_it_was(wrong: float) -> None:
    cascade, untouched = Cascade(seed=3, compute_share=0.2), Cascade(seed=3, compute_share=0.2)
    with pytest.raises(ValueError, match="rank"):
        cascade.judge(wrong, 10.0)
    with pytest.raises(ValueError, match="ms"):
        cascade.judge(1.0, wrong)
    with pytest.raises(ValueError, match="ms"):
        cascade.looked(wrong)
    with pytest.raises(ValueError, match="share of frames"):
        cascade.judge(1.0, 10.0, budget_share=-1.0)
    values = np.random.default_rng(5).random(500)
    assert [cascade.judge(value, 10.0) for value in values] == [untouched.judge(value, 10.0) for value in values]


def test_a_long_run_holds_no_more_than_a_window() -> None:
    cascade = Cascade(window=64)
    for value in np.random.default_rng(6).random(5000):
        cascade.judge(value, 10.0)
    assert (len(cascade._ranks._recent), len(cascade._ranks._sorted)) == (64, 64)
