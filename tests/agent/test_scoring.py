"""What the scores promise: the formulas of their docstring, on every set of detections a model can give."""

from __future__ import annotations

import random
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgecase_agent.scoring import (
    Novelty,
    class_margins,
    difficulty_weights,
    entropies,
    error_probabilities,
    errors,
    expected_detection_errors,
    is_sound,
    measures,
    misses,
    rarity_weights,
    score,
    squared_gradients,
)
from edgecase_models.detections import Detections
from edgecase_models.strategy import Strategy

OPERATING_POINT = 0.25
STATEFUL = {Strategy.NOVELTY, Strategy.RANDOM}


def seen(
    *scores: float, box: tuple[float, float, float, float] = (0, 0, 40, 40), classes: tuple[int, ...] = ()
) -> Detections:
    return Detections.of([box] * len(scores), list(scores), list(classes) or [0] * len(scores))


def sure_of(*rows: tuple[float, ...], features: tuple[float, ...] | None = None) -> Detections:
    """Candidates of 40 x 40 pixels with these probabilities of each class."""
    p = np.array(rows, np.float32)
    picture = None if features is None else np.array(features, np.float32)
    boxes = np.tile(np.array([0, 0, 40, 40], np.float32), (len(p), 1))
    return Detections(boxes, p.max(axis=1), p.argmax(axis=1).astype(np.int32), p, picture)


def entropy(s: float) -> float:
    return -s * log(s) - (1 - s) * log(1 - s)


def test_the_measures_follow_their_formulas() -> None:
    terms = [entropy(s) for s in (0.9, 0.4, 0.2, 0.05)]
    near = [1 - 0.65 / 0.75, 1 - 0.15 / 0.75, 1 - 0.05 / 0.75, 1 - 0.2 / 0.75]
    gaps = [(1 - abs(2 * s - 1)) ** 2 for s in (0.9, 0.4, 0.2, 0.05)]
    assert measures(seen(0.9, 0.4, 0.2, 0.05), OPERATING_POINT) == pytest.approx(
        {
            Strategy.EDE: 0.1 + 0.6 + 0.2 + 0.05,
            Strategy.MISSED: 0.2 + 0.05,
            Strategy.LEAST_CONFIDENCE: 1 - (0.9 + 0.4) / 2,
            Strategy.LEAST_CONFIDENCE_MAX: 0.6,
            Strategy.LEAST_CONFIDENCE_SUM: 0.7,
            Strategy.MARGIN: max(near),
            Strategy.MARGIN_MEAN: sum(near) / 4,
            Strategy.MARGIN_SUM: sum(near),
            Strategy.CLASS_MARGIN_MAX: max(gaps),
            Strategy.CLASS_MARGIN_MEAN: sum(gaps) / 4,
            Strategy.CLASS_MARGIN_SUM: sum(gaps),
            Strategy.ENTROPY_MAX: max(terms),
            Strategy.ENTROPY_SUM: sum(terms),
            Strategy.ENTROPY_MEAN: sum(terms) / 4,
            Strategy.DIFFICULTY_ENTROPY: sum(terms[:3]),  # a score of 0.05 is not above 0.05
            Strategy.MODEL_CHANGE: sqrt(2 * (0.09 + 0.24 + 0.16 + 0.0475)),
        },
        rel=1e-5,
    )


def test_a_measure_by_itself_is_the_one_among_all() -> None:
    detections = sure_of((0.9, 0.05, 0), (0.2, 0.3, 0.1), features=(3, 4))
    every = measures(detections, OPERATING_POINT)
    assert set(every) == set(Strategy) - STATEFUL
    assert every == {strategy: score(detections, OPERATING_POINT, strategy) for strategy in every}


def test_a_detection_at_the_operating_point_counts_as_reported() -> None:
    assert score(seen(0.25), OPERATING_POINT) == pytest.approx(0.75)
    assert score(seen(0.2499), OPERATING_POINT) == pytest.approx(0.2499)
    assert score(seen(0.7), 0.7) == pytest.approx(0.3)  # 0.7 as float32 is below 0.7
    assert score(seen(0.7), 0.7, Strategy.MISSED) == 0


def test_a_frame_in_which_nothing_was_seen_scores_nothing() -> None:
    assert set(measures(seen(), OPERATING_POINT).values()) == {0.0}
    empty = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), np.zeros((0, 80)), np.ones(8))
    assert set(measures(empty, OPERATING_POINT).values()) == {0.0}


# ---- expected errors -----------------------------------------------------------------------------------------------


def test_each_candidates_error_is_told_apart_and_their_sum_is_the_frames() -> None:
    detections = seen(0.9, 0.4, 0.1)
    assert errors(detections, OPERATING_POINT) == pytest.approx([0.1, 0.6, 0.1])
    assert misses(detections, OPERATING_POINT) == pytest.approx([0, 0, 0.1])
    assert expected_detection_errors(detections, OPERATING_POINT) == pytest.approx(0.8)


def test_a_calibration_is_asked_for_the_probability_of_each_candidate_by_class() -> None:
    detections = Detections.of([(0, 0, 1, 1)] * 3, [0.9, 0.5, 0.1], [2, 1, 2])

    def table(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        assert scores.tolist() == pytest.approx([0.9, 0.5, 0.1])
        return np.where(classes == 1, 0.5, 1.0)

    assert errors(detections, OPERATING_POINT, table) == pytest.approx([0, 0.5, 1])
    assert score(detections, OPERATING_POINT, calibration=table) == pytest.approx(0 + 0.5 + 1)
    assert score(detections, OPERATING_POINT, Strategy.MISSED, table) == pytest.approx(1)


def test_a_calibration_that_gives_no_number_makes_the_score_unsound() -> None:
    def broken(scores: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.full(len(scores), np.nan)

    assert not is_sound(score(seen(0.5), OPERATING_POINT, calibration=broken))
    assert not is_sound(score(seen(0.1), OPERATING_POINT, Strategy.MISSED, broken))
    assert not is_sound(float("inf"))
    assert is_sound(0.0)


def test_a_calibration_beyond_its_range_is_held_to_it() -> None:
    assert errors(seen(0.9, 0.1), OPERATING_POINT, lambda scores, _: scores * 0 + [1.5, -0.5]).tolist() == [0, 0]


def test_certain_detections_are_expected_to_hold_no_error() -> None:
    assert error_probabilities(np.array([1.0, 0.0]), np.array([True, False])).tolist() == [0, 0]
    assert error_probabilities(np.array([1.0, 0.0]), np.array([False, True])).tolist() == [1, 1]


def test_errors_in_a_class_count_by_its_weight_and_an_unknown_class_counts_one() -> None:
    detections = seen(0.9, 0.5, 0.1, classes=(0, 1, 7))
    weights = np.array([2.0, 0.5])
    assert errors(detections, OPERATING_POINT, weights=weights) == pytest.approx([0.2, 0.25, 0.1])
    assert score(detections, OPERATING_POINT, weights=weights) == pytest.approx(0.55)
    assert score(detections, OPERATING_POINT, Strategy.MISSED, weights=weights) == pytest.approx(0.1)
    assert errors(detections, OPERATING_POINT, weights=np.zeros(0)) == pytest.approx([0.1, 0.5, 0.1])


def test_a_class_that_the_model_knows_badly_weighs_up_to_a_fifth_more() -> None:
    assert difficulty_weights([1.0, 0.0, 0.5]) == pytest.approx(
        [1, 1.2, 1 + 0.06 * log(1 + (np.e ** (1 / 0.3) - 1) / 2)]
    )
    for wrong in (1.1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"quality of a class lies in \[0, 1\]"):
            difficulty_weights([0.5, wrong])


def test_a_rare_class_weighs_more_within_bounds() -> None:
    assert rarity_weights([100, 400, 25]) == pytest.approx([1, 0.5, 2])
    assert rarity_weights([100, 100, 0, 1e9]) == pytest.approx([1, 1, 3, 0.5])
    assert rarity_weights([0, 0]) == pytest.approx([1, 1])
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite count"):
            rarity_weights([1, wrong])


# ---- uncertainty sampling ------------------------------------------------------------------------------------------


def test_the_class_margin_is_between_the_two_most_probable_classes() -> None:
    assert class_margins(sure_of((0.7, 0.1, 0.6), (0.2, 0.2, 0.0), (0, 1, 0))) == pytest.approx([0.81, 1, 0])


def test_with_one_class_the_margin_is_that_to_the_background() -> None:
    assert class_margins(sure_of((0.7,), (0.5,))) == pytest.approx(class_margins(seen(0.7, 0.5)))
    assert class_margins(seen(0.7, 0.5)) == pytest.approx([0.36, 1])


def test_what_is_certain_has_no_entropy() -> None:
    assert entropies(np.array([0, 1], np.float32)).tolist() == [0, 0]
    assert entropies(np.float32(0.5)) == pytest.approx(log(2))


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ((0, 0, 17, 17), True),
        ((0, 0, 16, 16), False),  # too small
        ((0, 0, 100, 21), True),
        ((0, 0, 100, 20), False),  # too long
        ((0, 0, 20, 100), False),
        ((5, 5, 5, 5), False),
        ((-500, -500, 1e30, 1e30), True),
    ],
)
def test_the_difficulty_weighted_entropy_leaves_out_the_boxes_that_ppal_leaves_out(
    box: tuple[float, float, float, float], counts: bool
) -> None:
    value = score(seen(0.3, 0.05, box=box), OPERATING_POINT, Strategy.DIFFICULTY_ENTROPY)
    assert value == pytest.approx(entropy(0.3) if counts else 0)


def test_the_difficulty_weighted_entropy_counts_hard_classes_more() -> None:
    detections = seen(0.3, 0.3, 0.3, classes=(0, 1, 9))
    value = score(detections, OPERATING_POINT, Strategy.DIFFICULTY_ENTROPY, difficulty=difficulty_weights([1, 0]))
    assert value == pytest.approx(entropy(0.3) * (1 + 1.2 + 1))


# ---- expected model change -----------------------------------------------------------------------------------------


def test_the_gradient_that_a_label_would_send_is_the_expected_one() -> None:
    """Against every answer the labels could give, each with its probability, through the real gradient of the last layer."""
    p, features = np.array([0.7, 0.2]), np.array([3.0, 4.0])
    inputs = np.append(features, 1)  # the bias
    expected = 0.0
    for y in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chance = float(np.prod(np.where(y, p, 1 - p)))
        expected += chance * float((np.outer(p - y, inputs) ** 2).sum())
    detections = sure_of(tuple(p), features=tuple(features))
    assert squared_gradients(detections) == pytest.approx([expected], rel=1e-5)
    assert score(detections, OPERATING_POINT, Strategy.MODEL_CHANGE) == pytest.approx(sqrt(expected), rel=1e-5)


def test_without_features_or_probabilities_the_gradient_is_that_of_the_score() -> None:
    assert squared_gradients(sure_of((0.7, 0.2))) == pytest.approx([2 * (0.21 + 0.16)])
    assert squared_gradients(seen(0.7)) == pytest.approx([2 * 0.21])


# ---- novelty and chance --------------------------------------------------------------------------------------------


def test_novelty_is_half_the_distance_to_the_nearest_direction() -> None:
    memory = Novelty(capacity=4)
    assert memory.of(np.array([1.0, 0])) == 1  # nothing is remembered
    assert not memory.repeats(np.array([1.0, 0]))
    memory.remember(np.array([2.0, 0]))
    memory.remember(np.array([0, 5.0]))
    assert memory.of(np.array([0.1, 0])) == pytest.approx(0)
    assert memory.of(np.array([-1.0, -1])) == pytest.approx((1 + sqrt(0.5)) / 2)
    assert memory.of(np.array([1.0, 1])) == pytest.approx((1 - sqrt(0.5)) / 2)


def test_near_duplicates_are_told_by_their_angle() -> None:
    memory = Novelty()
    memory.remember(np.array([1.0, 0]))
    assert memory.repeats(np.array([0.98, sqrt(1 - 0.98**2)]))
    assert not memory.repeats(np.array([0.96, sqrt(1 - 0.96**2)]))
    assert memory.repeats(np.array([0.96, sqrt(1 - 0.96**2)]), cosine=0.95)


def test_the_oldest_direction_is_forgotten_first() -> None:
    memory = Novelty(capacity=2)
    for angle in np.eye(3):
        memory.remember(angle)
    assert len(memory) == 2
    assert memory.of(np.array([1.0, 0, 0])) == pytest.approx(0.5)
    assert memory.repeats(np.array([0, 1.0, 0]))


def test_another_models_features_start_afresh() -> None:
    memory = Novelty()
    memory.remember(np.ones(4))
    assert memory.of(np.ones(8)) == 1
    memory.remember(np.ones(8))
    assert len(memory) == 1
    memory.forget()
    assert memory.of(np.ones(8)) == 1
    assert len(memory) == 0


@pytest.mark.parametrize("features", [np.zeros(3), np.array([np.nan, 1, 0]), np.array([np.inf, 0, 0]), np.zeros(0)])
def test_a_vector_without_direction_says_nothing(features: np.ndarray) -> None:
    memory = Novelty()
    memory.remember(features)
    assert len(memory) == 0
    memory.remember(np.array([1.0, 0, 0]))
    assert memory.of(features) == 0
    assert not memory.repeats(features)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(5)), elements=st.floats(width=32)),
    arrays.arrays(np.float32, 5, elements=st.floats(width=32)),
)
def test_novelty_is_bounded_whatever_the_features(remembered: np.ndarray, features: np.ndarray) -> None:
    memory = Novelty(capacity=8)
    for each in remembered:
        memory.remember(each)
    assert len(memory) <= 8
    assert 0 <= memory.of(features) <= 1


def test_a_memory_holds_something() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Novelty(capacity=0)


def test_novelty_and_chance_need_what_they_are_measured_with() -> None:
    with_features = sure_of((0.5, 0.1), features=(1, 0))
    memory = Novelty()
    memory.remember(np.array([0, 1.0]))
    assert score(with_features, OPERATING_POINT, Strategy.NOVELTY, memory=memory) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no memory to compare with"):
        score(with_features, OPERATING_POINT, Strategy.NOVELTY)
    with pytest.raises(ValueError, match="the model gives no features"):
        score(seen(0.5), OPERATING_POINT, Strategy.NOVELTY, memory=memory)
    with pytest.raises(ValueError, match="generator"):
        score(seen(), OPERATING_POINT, Strategy.RANDOM)


def test_a_random_score_is_even_over_all_frames_whatever_they_show() -> None:
    chance = random.Random(1)
    drawn = [score(each, OPERATING_POINT, Strategy.RANDOM, chance=chance) for each in [seen(), seen(0.5)] * 500]
    assert 0.46 < np.mean(drawn[::2]) < 0.54
    assert 0.46 < np.mean(drawn[1::2]) < 0.54


# ---- whatever a model gives ----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300), st.floats(0.05, 0.95))
def test_every_measure_is_finite_and_within_its_bounds(scores: list[float], operating_point: float) -> None:
    measured = measures(seen(*scores), operating_point)
    assert all(is_sound(value) for value in measured.values())
    assert 0 <= measured[Strategy.MISSED] <= measured[Strategy.EDE] <= len(scores)
    for family in ("MARGIN", "LEAST_CONFIDENCE", "CLASS_MARGIN_MAX"):
        assert 0 <= measured[Strategy[family]] <= 1
    assert 0 <= measured[Strategy.ENTROPY_MEAN] <= measured[Strategy.ENTROPY_MAX] + 1e-6 <= log(2) + 1e-5
    assert measured[Strategy.ENTROPY_SUM] == pytest.approx(measured[Strategy.ENTROPY_MEAN] * len(scores), rel=1e-4)
    assert measured[Strategy.DIFFICULTY_ENTROPY] <= measured[Strategy.ENTROPY_SUM] + 1e-4
    assert measured[Strategy.MODEL_CHANGE] <= sqrt(2 * 0.25 * len(scores)) + 1e-4


PROBABILITIES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.integers(1, 6)), elements=st.floats(0, 1, width=32)
)


@given(PROBABILITIES, arrays.arrays(np.float32, 4, elements=st.floats(-1e6, 1e6, width=32)))
def test_the_measures_of_all_classes_are_finite_and_within_their_bounds(p: np.ndarray, features: np.ndarray) -> None:
    detections = replace(sure_of(*p), features=features)
    assert all(is_sound(value) for value in measures(detections, OPERATING_POINT).values())
    margins = class_margins(detections)
    assert margins.shape == (len(p),)
    assert ((margins >= 0) & (margins <= 1)).all()
    order = np.random.default_rng(0).permutation(p.shape[1])
    assert class_margins(sure_of(*p[:, order])) == pytest.approx(margins)
    assert squared_gradients(sure_of(*p[:, order])) == pytest.approx(squared_gradients(sure_of(*p)), rel=1e-4)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=100))
def test_one_more_candidate_never_makes_a_frame_less_doubtful(scores: list[float]) -> None:
    fewer, more = measures(seen(*scores), OPERATING_POINT), measures(seen(*scores, 0.2), OPERATING_POINT)
    for strategy in (Strategy.EDE, Strategy.MISSED, Strategy.MODEL_CHANGE):
        assert more[strategy] >= fewer[strategy]
    assert more[Strategy.ENTROPY_SUM] >= fewer[Strategy.ENTROPY_SUM] - 1e-4


def test_ten_thousand_boxes_far_outside_of_the_picture_and_of_no_size_are_scored() -> None:
    count = 10_000
    boxes = np.tile(np.array([[-1e6, -1e6, 1e6, 1e6], [3e38, 3e38, 3e38, 3e38], [7, 7, 7, 7]], np.float32), (count, 1))
    scores = np.linspace(1, 0, count, dtype=np.float32)
    detections = Detections(boxes[:count], scores, np.full(count, 2**31 - 1, np.int32))
    weights = np.array([2.0])
    measured = measures(detections, OPERATING_POINT, weights=weights, difficulty=weights)
    assert all(is_sound(value) for value in measured.values())
    assert measured[Strategy.EDE] == pytest.approx(count * (0.75**2 + 0.25**2) / 2, rel=1e-3)
