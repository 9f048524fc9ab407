"""What a rank promises: the share of recent scores below, and memory that does not grow."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.ranks import Ranks


def test_a_rank_is_the_share_of_recent_scores_below() -> None:
    ranks = Ranks(window=4)
    assert [ranks.rank(value) for value in (1.0, 2.0, 0.5, 1.5)] == [0.0, 1.0, 0.0, 2 / 3]
    assert ranks.rank(1.75) == 3 / 4
    assert ranks.rank(1.0) == 1 / 4  # the first 1.0 is forgotten: 2.0, 0.5, 1.5 and 1.75 are left


def test_ranks_of_a_steady_stream_are_spread_evenly() -> None:
    ranks = Ranks(window=256)
    found = np.array([ranks.rank(float(value)) for value in np.random.default_rng(0).normal(size=5000)])[512:]
    counts, _ = np.histogram(found, bins=10, range=(0, 1))
    assert counts.min() > 0.8 * counts.mean()


@given(st.lists(st.one_of(st.integers(0, 5).map(float), st.floats(allow_nan=False)), max_size=60), st.integers(1, 20))
def test_a_rank_is_that_of_a_plain_count_whatever_repeats(values: list[float], window: int) -> None:
    ranks, recent = Ranks(window), deque[float](maxlen=window)
    for value in values:
        below = sum(other < value for other in recent) / len(recent) if recent else 0.0
        assert ranks.rank(value) == below
        recent.append(value)
    assert len(ranks._sorted) == len(recent)
