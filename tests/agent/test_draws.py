"""What random picks promise: no more than asked for, spread over the window, each with the probability that it had."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.draws import Draws


@given(
    st.integers(0, 12), st.integers(1, 6), st.integers(0, 15), st.lists(st.floats(0, 20), max_size=60), st.integers()
)
def test_random_picks_are_no_more_than_asked_for_spread_and_their_propensities_add_up_to_their_number(
    most: int, strata: int, count: int, passed_s: list[float], seed: int
) -> None:
    draws = Draws[int](most, strata, 2.0, Random(seed))
    of = {index: min(int(at_s / 2), min(strata, most) - 1) for index, at_s in enumerate(passed_s)}
    for index, at_s in enumerate(passed_s):
        draws.offer(index, at_s)
    assert len(draws) < most + strata
    chosen = draws.choose(count)
    assert len({index for index, _ in chosen}) == len(chosen) <= count
    held = Counter(of[index] for index in draws)
    got = Counter(of[index] for index, _ in chosen)
    for one, other in itertools.permutations(held, 2):
        assert got[one] >= got[other] - 1 or got[one] == held[one]
    expected = {of[index]: propensity for index, propensity in chosen}
    sizes = Counter(of.values())
    assert all(0 < propensity * sizes[stratum] <= held[stratum] for stratum, propensity in expected.items())
    if held and count <= min(held.values()) * len(held) and len(expected) == len(held):
        assert sum(propensity * sizes[stratum] for stratum, propensity in expected.items()) == pytest.approx(count)
