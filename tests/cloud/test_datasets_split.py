"""What was held out is never learnt from, and no picture has a near-duplicate on the other side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_cloud.splits import Shot, Split, SplitError, SplitRule, assign

START = datetime(2026, 1, 31, 23, 50, tzinfo=UTC)

shots = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(0, 1200, allow_nan=False)), max_size=60
).map(
    lambda rows: [
        Shot(str(number), device, camera, START + timedelta(seconds=at), START + timedelta(seconds=at))
        for number, (device, camera, at) in enumerate(rows)
    ]
)
rules = st.builds(
    SplitRule,
    block_s=st.floats(1, 300),
    gap_s=st.floats(0, 60),
    val_share=st.floats(0, 0.99),
    seed=st.integers(0, 3),
)


@settings(deadline=None)
@given(shots, rules)
def test_no_picture_that_is_held_out_is_near_one_that_is_learnt_from(given_shots: list[Shot], rule: SplitRule) -> None:
    split = assign(given_shots, rule)
    held = [shot for shot in given_shots if split[shot.key] is Split.VAL]
    learnt = [shot for shot in given_shots if split[shot.key] is Split.TRAIN]
    for one, other in product(held, learnt):
        if (one.device, one.camera) == (other.device, other.camera):
            assert abs(one.captured_at - other.captured_at).total_seconds() >= rule.gap_s - 1e-6


@settings(deadline=None)
@given(shots, rules)
def test_every_picture_has_one_side_whatever_the_order(given_shots: list[Shot], rule: SplitRule) -> None:
    split = assign(given_shots, rule)
    assert split.keys() == {shot.key for shot in given_shots}
    assert split == assign(reversed(given_shots), rule)


@settings(deadline=None)
@given(shots, rules, st.integers(0, 60))
def test_later_labels_never_move_a_held_out_picture_into_training(
    given_shots: list[Shot], rule: SplitRule, count: int
) -> None:
    early, late = assign(given_shots[:count], rule), assign(given_shots, rule)
    for key, side in early.items():
        if side is Split.TRAIN:
            assert late[key] is Split.TRAIN
        else:
            assert late[key] is not Split.TRAIN


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 0.9), st.integers(0, 100))
def test_about_the_share_that_was_asked_for_is_held_out(share: float, seed: int) -> None:
    times = [START + timedelta(seconds=10 * i) for i in range(5000)]
    many = [Shot(str(i), f"cam-{i % 7}", "front", at, at) for i, at in enumerate(times)]
    split = assign(many, SplitRule(block_s=60, gap_s=0, val_share=share, seed=seed))
    held = sum(side is Split.VAL for side in split.values()) / len(many)
    assert abs(held - share) < 0.12


def test_nothing_is_held_out_where_nothing_is_asked_for() -> None:
    split = assign([Shot("a", "cam", "front", START, START)], SplitRule(val_share=0))
    assert split == {"a": Split.TRAIN}


@pytest.mark.parametrize("wrong", [{"block_s": 0.0}, {"gap_s": -1.0}, {"val_share": 1.0}, {"val_share": -0.1}])
def test_a_rule_that_cannot_be_followed_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SplitError, match="block_s must be above 0"):
        SplitRule(**wrong)
