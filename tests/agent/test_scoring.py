"""What the scores promise: the formulas of their docstring, on every set of detections a model can give."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.scoring import MEASURED, Strategy, expected_detection_errors, is_sound, score
from edgecase_models.detections import Detections

OPERATING_POINT = 0.25


def seen(*scores: float) -> Detections:
    return Detections.of([(0, 0, 10, 10)] * len(scores), list(scores), [0] * len(scores))


def entropy(s: float) -> float:
    return -s * log(s) - (1 - s) * log(1 - s)


def every_measure(detections: Detections, operating_point: float = OPERATING_POINT) -> dict[Strategy, float]:
    return {strategy: score(detections, operating_point, strategy) for strategy in MEASURED}


def test_the_measures_follow_their_formulas() -> None:
    terms = [entropy(s) for s in (0.9, 0.4, 0.2, 0.05)]
    assert every_measure(seen(0.9, 0.4, 0.2, 0.05)) == pytest.approx(
        {
            Strategy.EDE: 0.1 + 0.6 + 0.2 + 0.05,
            Strategy.LEAST_CONFIDENCE: 1 - (0.9 + 0.4) / 2,
            Strategy.MARGIN: 1 - 0.05 / 0.75,
            Strategy.ENTROPY_MAX: max(terms),
            Strategy.ENTROPY_SUM: sum(terms),
            Strategy.ENTROPY_MEAN: sum(terms) / 4,
        }
    )


def test_a_detection_at_the_operating_point_counts_as_reported() -> None:
    assert score(seen(0.25), OPERATING_POINT) == pytest.approx(0.75)
    assert score(seen(0.2499), OPERATING_POINT) == pytest.approx(0.2499)


def test_a_frame_in_which_nothing_was_seen_scores_nothing() -> None:
    assert set(every_measure(seen()).values()) == {0.0}


def test_a_calibration_is_asked_for_the_probability_of_each_candidate_by_class() -> None:
    detections = Detections.of([(0, 0, 1, 1)] * 3, [0.9, 0.5, 0.1], [2, 1, 2])

    def table(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        assert scores.tolist() == pytest.approx([0.9, 0.5, 0.1])
        return np.where(classes == 1, 0.5, 1.0)

    assert score(detections, OPERATING_POINT, calibration=table) == pytest.approx(0 + 0.5 + 1)


def test_a_calibration_that_gives_no_number_makes_the_score_unsound() -> None:
    def broken(scores: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.full(len(scores), np.nan)

    assert not is_sound(score(seen(0.5), OPERATING_POINT, calibration=broken))
    assert not is_sound(float("inf"))
    assert is_sound(0.0)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300), st.floats(0.05, 0.95))
def test_every_measure_is_finite_and_within_its_bounds(scores: list[float], operating_point: float) -> None:
    measured = every_measure(seen(*scores), operating_point)
    assert all(is_sound(value) for value in measured.values())
    assert 0 <= measured[Strategy.EDE] <= len(scores)
    assert 0 <= measured[Strategy.MARGIN] <= 1
    assert 0 <= measured[Strategy.LEAST_CONFIDENCE] <= 1
    assert 0 <= measured[Strategy.ENTROPY_MEAN] <= measured[Strategy.ENTROPY_MAX] + 1e-6 <= log(2) + 1e-5
    assert measured[Strategy.ENTROPY_SUM] == pytest.approx(measured[Strategy.ENTROPY_MEAN] * len(scores), rel=1e-4)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=100))
def test_one_more_candidate_never_makes_a_frame_less_doubtful(scores: list[float]) -> None:
    fewer, more = every_measure(seen(*scores)), every_measure(seen(*scores, 0.2))
    assert more[Strategy.EDE] >= fewer[Strategy.EDE]
    assert more[Strategy.ENTROPY_SUM] >= fewer[Strategy.ENTROPY_SUM] - 1e-4


def test_certain_detections_are_expected_to_hold_no_error() -> None:
    assert expected_detection_errors(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert expected_detection_errors(np.array([1.0, 0.0]), np.array([False, True])) == 2
