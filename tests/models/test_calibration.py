"""A calibrated score is a probability: bounded, rising with the score, fitted as the textbook says, shrunk where a class is rare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_models.calibration import (
    MAX_KNOTS,
    MAX_OFFSET,
    MIN_FRAMES,
    CalibrationError,
    CalibrationTable,
    Observation,
    expected_calibration_error,
    fit,
    held_out,
    observations,
    observe,
    pool_adjacent_violators,
    tally,
)
from edgecase_models.detections import Detections
from edgecase_models.evaluate import Sample, Sighting

NAMES = ("car", "dog", "bus")
shares = st.floats(0, 1)


def a_table(**changes: object) -> CalibrationTable:
    return replace(
        CalibrationTable(
            knots=np.array([0.0, 0.2, 0.9]),
            values=np.array([0.0, 0.1, 0.8]),
            offsets=np.array([0.0, -1.0, 2.0]),
            quality=np.array([0.5, 0.2, 0.9]),
            frames=100,
            candidates=1000,
        ),
        **changes,
    )


@st.composite
def tables(draw: st.DrawFn) -> CalibrationTable:
    knots = sorted(draw(st.sets(st.integers(0, 1000), min_size=2, max_size=MAX_KNOTS)))
    values = sorted(draw(st.lists(shares, min_size=len(knots), max_size=len(knots))))
    offsets = draw(st.lists(st.floats(-MAX_OFFSET, MAX_OFFSET), max_size=5))
    return a_table(
        knots=np.array(knots) / 1000,
        values=np.array(values),
        offsets=np.array(offsets),
        quality=np.full(len(offsets), 0.5),
    )


@given(tables(), st.lists(shares, max_size=30), st.integers(-2, 8))
def test_each_classs_probability_is_bounded_and_rises_with_the_score(
    table: CalibrationTable, scores: list[float], kind: int
) -> None:
    ordered = np.array(sorted(scores), np.float32)
    given_out = table(ordered, np.full(len(ordered), kind, np.int32))
    assert given_out.shape == ordered.shape
    assert ((given_out >= 0) & (given_out <= 1)).all()
    assert (np.diff(given_out) >= -1e-12).all()


def test_a_class_is_shifted_on_the_logit_scale_and_an_unknown_one_is_not() -> None:
    scores = np.full(5, 0.9, np.float32)
    found = a_table()(scores, np.array([0, 1, 2, 3, -1], np.int32))
    logits = np.log(found / (1 - found))
    shared = np.log(0.8 / 0.2)
    assert logits == pytest.approx([shared, shared - 1, shared + 2, shared, shared], abs=1e-6)


def test_the_curve_is_linear_between_its_knots_and_level_outside() -> None:
    found = a_table()(np.array([0.1, 0.55, 0.95], np.float32), np.zeros(3, np.int32))
    assert found == pytest.approx([0.05, 0.45, 0.8], abs=1e-6)


def test_a_table_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        a_table().values[0] = 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"knots": np.array([0.0, 0.9, 0.2])}, "knots must increase"),
        ({"knots": np.array([0.2, 0.2, 0.9])}, "knots must increase"),
        ({"knots": np.array([0.0, 0.2, 1.1])}, "within \\[0, 1\\]"),
        ({"values": np.array([0.2, 0.1, 0.8])}, "values must not decrease"),
        ({"values": np.array([0.0, 0.1, 1.2])}, "within \\[0, 1\\]"),
        ({"values": np.array([0.0, float("nan"), 0.8])}, "values are not a list of finite"),
        ({"values": np.array([0.0, 0.1])}, "as many values, not 3 and 2"),
        ({"knots": np.array([0.5]), "values": np.array([0.5])}, "2 to 20 knots"),
        ({"knots": np.linspace(0, 1, 21), "values": np.linspace(0, 1, 21)}, "2 to 20 knots"),
        ({"offsets": np.zeros(2)}, "2 offsets and 3 qualities"),
        ({"offsets": np.array([0, 0, 9.0])}, "an offset lies outside"),
        ({"quality": np.array([0.5, 0.5, 1.5])}, "a quality lies outside"),
        ({"iou": 1.0}, "iou must lie in"),
        ({"frames": 0}, "at least 1"),
    ],
)
def test_what_is_no_table_is_refused(changes: dict, told: str) -> None:
    with pytest.raises(CalibrationError, match=told):
        a_table(**changes)


def isotonic_by_definition(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x_i = max over j ≤ i of min over k ≥ i of the weighted mean of v_j..v_k (Barlow et al. 1972): quadratic per element."""
    count = len(values)
    mean = [
        [np.average(values[j : k + 1], weights=weights[j : k + 1]) if k >= j else np.nan for k in range(count)]
        for j in range(count)
    ]
    return np.array([max(min(mean[j][k] for k in range(i, count)) for j in range(i + 1)) for i in range(count)])


@given(st.lists(st.tuples(shares, st.integers(1, 20)), min_size=1, max_size=12))
def test_pooling_is_isotonic_regression(rows: list[tuple[float, int]]) -> None:
    values, weights = np.array(rows, np.float64).T
    found = pool_adjacent_violators(values, weights)
    assert found == pytest.approx(isotonic_by_definition(values, weights), abs=1e-9)
    assert (np.diff(found) >= 0).all()


def test_pooling_nothing_gives_nothing() -> None:
    assert len(pool_adjacent_violators(np.zeros(0), np.zeros(0))) == 0


def sighting(seen: list[tuple], truth: list[tuple], names: tuple[str, ...] = NAMES) -> Sighting:
    """`seen` as (x1, y1, x2, y2, score, class index), `truth` as (x1, y1, x2, y2, class name)."""
    detections = Detections.of([row[:4] for row in seen], [row[4] for row in seen], [row[5] for row in seen])
    return Sighting(
        np.array([row[:4] for row in truth], np.float32).reshape(-1, 4),
        tuple(row[4] for row in truth),
        "",
        detections,
        tuple(names[index] for index in detections.classes),
        0.0,
    )


def test_the_best_score_takes_the_object_and_a_duplicate_is_false() -> None:
    found = observe(
        sighting([(0, 0, 10, 9, 0.3, 0), (0, 0, 10, 8, 0.9, 0)], [(0, 0, 10, 10, "car")]), NAMES, judged=NAMES
    )
    assert found.ious == pytest.approx([0, 0.8])
    assert found.objects.tolist() == [1, 0, 0]


def test_a_candidate_takes_the_object_that_it_overlaps_most() -> None:
    found = observe(
        sighting([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0)], [(0, 0, 10, 6, "car"), (0, 0, 10, 9, "car")]),
        NAMES,
        judged=NAMES,
    )
    assert found.ious == pytest.approx([0.9, 0.6])


@pytest.mark.parametrize(
    ("seen", "truth"),
    [
        ((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, "car")),
        ((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 4.9, "car")),
        ((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, "zebra")),
    ],
    ids=["another class", "too little overlap", "a class that the model does not know"],
)
def test_what_does_not_match_is_false(seen: tuple, truth: tuple) -> None:
    assert observe(sighting([seen], [truth]), NAMES, judged=NAMES).ious.tolist() == [0]


def test_classes_that_the_data_was_not_labelled_for_are_left_out() -> None:
    """A COCO detector on a folder of labelled cars: its dogs are not false, they are unknown."""
    found = observe(
        sighting([(0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 0)], [(0, 0, 10, 10, "car")]), NAMES, judged={"car"}
    )
    assert found.classes.tolist() == [0]
    assert found.ious.tolist() == [1]


def test_an_empty_frame_is_an_observation_too() -> None:
    for found in (
        observe(sighting([], []), NAMES, judged=NAMES),
        observe(sighting([], [(0, 0, 9, 9, "dog")]), NAMES, judged=NAMES),
    ):
        assert len(found.scores) == len(found.ious) == 0
    assert found.objects.tolist() == [0, 1, 0]


def test_matching_is_that_of_the_coco_metric() -> None:
    """The highest recall that faster-coco-eval gives at IoU 0.5 is hits by objects, class by class."""
    pytest.importorskip("faster_coco_eval", reason="the [cloud] extra is not installed")
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    chance = np.random.default_rng(3)
    hits, objects = np.zeros(3), np.zeros(3)
    truth, found = [], []
    for picture in range(1, 13):
        boxes = np.concatenate([corner := chance.uniform(0, 60, (12, 2)), corner + chance.uniform(15, 40, (12, 2))], 1)
        near = np.sort((boxes + chance.normal(0, 5, boxes.shape)).reshape(12, 2, 2), axis=1).reshape(12, 4)
        kinds, guesses, scores = chance.integers(0, 3, 12), chance.integers(0, 3, 24), chance.uniform(0.03, 1, 24)
        guesses[:12] = kinds
        seen = np.concatenate([near, boxes + 3])
        observed = observe(
            sighting(
                [(*box, score, kind) for box, score, kind in zip(seen, scores, guesses, strict=True)],
                [(*box, NAMES[kind]) for box, kind in zip(boxes, kinds, strict=True)],
            ),
            NAMES,
            judged=NAMES,
        )
        hits += np.bincount(observed.classes[observed.ious > 0], minlength=3)
        objects += observed.objects
        for rows, table, extra in ((boxes, truth, {}), (seen, found, {"score": scores})):
            kind_of = kinds if rows is boxes else guesses
            for index, box in enumerate(rows.astype(np.float32).astype(float)):
                size = box[2:] - box[:2]
                table.append(
                    {
                        "id": len(table) + 1,
                        "image_id": picture,
                        "category_id": int(kind_of[index]) + 1,
                        "bbox": [*box[:2], *size],
                        "area": float(size.prod()),
                        "iscrowd": 0,
                        **{key: float(values[index]) for key, values in extra.items()},
                    }
                )
    frame = {
        "images": [{"id": picture} for picture in range(1, 13)],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
    }
    run = COCOeval_faster(
        COCO(frame | {"annotations": truth}), COCO(frame | {"annotations": found}), "bbox", print_function=print
    )
    run.evaluate()
    run.accumulate()
    recall = np.asarray(run.eval["recall"])[0, :, 0, -1]
    assert 0.2 < recall.mean() < 0.95
    assert hits / objects == pytest.approx(recall)


def seen_frames(
    count: int, *, per_frame: int = 30, seed: int = 0, shift: dict[int, float] | None = None
) -> list[Observation]:
    """Frames whose candidates are true with probability s², moved by `shift` on the logit scale per class."""
    chance = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        scores = chance.uniform(0.03, 0.99, per_frame)
        classes = chance.integers(0, 2, per_frame)
        odds = scores**2 / (1 - scores**2) * np.exp([(shift or {}).get(kind, 0.0) for kind in classes])
        hits = chance.random(per_frame) < odds / (1 + odds)
        objects = np.bincount(classes[hits], minlength=3)
        frames.append(Observation(scores, classes, np.where(hits, 0.8, 0.0), objects))
    return frames


def test_the_fit_finds_the_true_curve() -> None:
    table = fit(seen_frames(300), NAMES)
    scores = np.linspace(0.1, 0.95, 18).astype(np.float32)
    assert table(scores, np.zeros(18, np.int32)) == pytest.approx(scores**2, abs=0.06)
    assert (table.frames, table.candidates, table.iou) == (300, 9000, 0.5)
    assert len(table.knots) <= MAX_KNOTS


def test_a_class_has_its_own_offset_as_far_as_it_has_evidence() -> None:
    shift = {1: -1.5}
    many, few = fit(seen_frames(300, shift=shift), NAMES), fit(seen_frames(50, per_frame=2, shift=shift), NAMES)
    difference = many.offsets[1] - many.offsets[0]
    assert difference == pytest.approx(-1.5, abs=0.2)
    assert difference < few.offsets[1] - few.offsets[0] < 0
    assert many.offsets[2] == 0, "never seen: the shared curve"


def test_hundreds_of_surely_false_boxes_do_not_make_an_offset_sure() -> None:
    """A class of low scores only, all false as the shared curve expects, keeps the shared curve."""
    chance = np.random.default_rng(1)
    frames = [
        replace(
            frame,
            scores=np.append(frame.scores, chance.uniform(0.03, 0.06, 10)),
            classes=np.append(frame.classes, np.full(10, 2)),
            ious=np.append(frame.ious, np.zeros(10)),
        )
        for frame in seen_frames(100)
    ]
    assert abs(fit(frames, NAMES).offsets[2]) < 0.3


def test_a_class_that_was_always_right_gets_no_certainty() -> None:
    frames = [
        replace(
            frame,
            scores=np.append(frame.scores, 0.3),
            classes=np.append(frame.classes, 2),
            ious=np.append(frame.ious, 1.0),
            objects=frame.objects + np.array([0, 0, 1]),
        )
        for frame in seen_frames(60)
    ]
    table = fit(frames, NAMES)
    assert 1 < table.offsets[2] <= MAX_OFFSET
    assert 0.3 < table(np.array([0.3], np.float32), np.array([2], np.int32))[0] < 1


def test_quality_is_the_mean_of_score_and_overlap_over_the_objects() -> None:
    """PPAL's p^0.6 · IoU^0.4, with 10 objects' worth of the mean of all classes."""
    frames = [
        Observation(np.array([0.9, 0.4, 0.2]), np.array([0, 1, 1]), np.array([0.8, 0.6, 0]), np.array([1, 2, 0]))
        for _ in range(60)
    ]
    each = np.array([0.9**0.6 * 0.8**0.4, 0.4**0.6 * 0.6**0.4])
    typical = each.sum() / 3
    expected = [(60 * each[0] + 10 * typical) / 70, (60 * each[1] + 10 * typical) / 130, typical]
    assert fit(frames, NAMES).quality == pytest.approx(expected)


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0.03, 1), st.integers(0, 2), st.booleans()), max_size=6),
        min_size=MIN_FRAMES,
        max_size=MIN_FRAMES + 10,
    )
)
def test_any_frames_give_a_table_or_a_reason(frames: list[list[tuple[float, int, bool]]]) -> None:
    observed = []
    for rows in frames:
        scores, kinds, hits = (np.array([row[place] for row in rows]) for place in range(3))
        kinds, hits = kinds.astype(np.int64), hits.astype(bool)
        objects = np.bincount(kinds[hits], minlength=3)
        observed.append(Observation(scores.astype(np.float64), kinds, np.where(hits, 0.7, 0.0), objects))
    every = [row[2] for rows in frames for row in rows]
    if not every or all(every) or not any(every):
        with pytest.raises(CalibrationError):
            fit(observed, NAMES)
        return
    table = fit(observed, NAMES)  # checks its own bounds
    assert table.candidates == len(every)
    counted = tally(observed, NAMES)
    assert sum(each.candidates for each in counted.values()) == len(every)
    assert sum(each.hits for each in counted.values()) == sum(every)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (seen_frames(MIN_FRAMES - 1), "49 labelled frames are too few .* at least 50"),
        (seen_frames(60, per_frame=0), "no candidate of a labelled class"),
        ([replace(frame, ious=np.ones(30)) for frame in seen_frames(60)], "all 1800 candidates are true"),
        ([replace(frame, ious=np.zeros(30)) for frame in seen_frames(60)], "all 1800 candidates are false"),
    ],
    ids=["few", "none", "true", "false"],
)
def test_frames_that_no_table_can_be_fitted_on_are_refused(frames: list[Observation], told: str) -> None:
    with pytest.raises(CalibrationError, match=told):
        fit(frames, NAMES)


def test_candidates_of_one_score_give_one_probability() -> None:
    frames = [replace(frame, scores=np.full(30, 0.5)) for frame in seen_frames(60)]
    share = np.concatenate([frame.ious > 0 for frame in frames]).mean()
    table = fit(frames, NAMES)
    assert table.knots.tolist() == [0, 0.5]
    assert table.values[1] == pytest.approx(share, abs=0.001)


def test_a_few_false_boxes_at_the_low_end_do_not_lift_the_curve() -> None:
    """The lowest group of candidates may be one box alone; its half hit is pooled with what follows."""
    chance = np.random.default_rng(6)
    frames = []
    for number in range(101):
        scores = np.append(chance.uniform(0.1, 0.9, 10), [0.03] * (number == 0))
        hits = chance.random(len(scores)) < scores**4
        frames.append(
            Observation(scores, np.zeros(len(scores), np.int64), np.where(hits, 0.8, 0), np.array([hits.sum(), 0, 0]))
        )
    assert fit(frames, NAMES)(np.array([0.03, 0.2], np.float32), np.array([2, 2], np.int32)).max() < 0.02


def test_a_curve_is_never_certain() -> None:
    """Above 0.5 all are true, below none: the curve comes near to 1 and to 0, not to them."""
    frames = [
        replace(frame, ious=np.where(frame.scores > 0.5, 0.8, 0.0), objects=np.array([30, 30, 0]))
        for frame in seen_frames(60)
    ]
    low, high = fit(frames, NAMES)(np.array([0.25, 0.95], np.float32), np.array([2, 2], np.int32))
    assert 0 < low < 0.01 < 0.99 < high < 1


def test_the_error_is_the_gap_between_probability_and_share_in_each_bin() -> None:
    """Bin 0.70-0.75: ten at 0.72, five true: a gap of 0.22. Bin 0.10-0.15: ten at 0.12, none true: 0.12. Mean 0.17."""
    probabilities = np.array([0.72] * 10 + [0.12] * 10)
    hits = np.array([True, False] * 5 + [False] * 10)
    assert expected_calibration_error(probabilities, hits) == pytest.approx(0.17)
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_what_is_held_out_is_calibrated_better_than_it_came() -> None:
    checked = held_out(seen_frames(200), NAMES)
    assert (checked.frames, checked.candidates) == (100, 3000)
    assert checked.error_before > 0.1
    assert checked.error_after < 0.05


def test_holding_out_needs_frames_for_both_halves() -> None:
    with pytest.raises(CalibrationError, match=r"99 labelled frames .* at least 100"):
        held_out(seen_frames(99), NAMES)


def test_neighbouring_frames_stay_on_one_side() -> None:
    """Blocks alternate: where each second tenth of a film is another world, the table of one does not fit the other."""
    worlds = [
        replace(
            frame,
            ious=np.where((frame.scores > 0.5) == (place // 10 % 2 == 0), 0.8, 0.0),
            objects=np.array([30, 30, 0]),
        )
        for place, frame in enumerate(seen_frames(100))
    ]
    assert held_out(worlds, NAMES).error_after > 0.8


def test_observations_come_from_running_the_detector() -> None:
    class Saw:
        names = NAMES

        def detect(self, picture: np.ndarray) -> Detections:
            assert picture is blank
            return Detections.of([(0, 0, 10, 10)], [0.6], [0])

    blank = np.zeros((20, 20, 3), np.uint8)
    samples = [
        Sample(blank, np.array([[0, 0, 10, 10]], np.float32), ("car",)),
        Sample(blank, np.zeros((0, 4), np.float32), ()),
    ]
    assert [each.ious.tolist() for each in observations(Saw(), samples, {"car"})] == [[1], [0]]
