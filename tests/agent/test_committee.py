"""What the committee promises: partners are found, disagreement is counted once, and the second member costs what was allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.committee import Cascade, Independent, Shifted, View, disagreement, match
from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector
from support.clips import squares
from support.tiny_onnx import GOLDEN

OPERATING_POINT = 0.25
EVERYWHERE = (0.0, 0.0, 1e6, 1e6)


def seen(*rows: tuple[float, float, int]) -> Detections:
    """Boxes of 10 pixels at x, with their score and class."""
    return Detections.of([(x, 0, x + 10, 10) for x, _, _ in rows], [s for _, s, _ in rows], [cls for _, _, cls in rows])


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


def test_c_ede_is_the_error_expected_of_the_first_member_under_both() -> None:
    a = seen((0, 0.9, 0), (50, 0.3, 0), (100, 0.1, 0))
    b = seen((0, 0.7, 0), (100, 0.5, 0), (200, 0.6, 0))
    found = disagreement(a, View(b, EVERYWHERE), OPERATING_POINT)
    # 0.9/0.7 agree and are reported: 1-0.8; 0.3 alone is reported: 1-0.15; 0.1/0.5 is not reported by a: 0.3; 0.6 is b's alone: 0.3
    assert found.c_ede == pytest.approx(0.2 + 0.85 + 0.3 + 0.3)
    assert found.hard == 3


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
    assert (found.c_ede, found.hard) == (0, 0)


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
