"""What is promised of the peers: each does what its source says, knows no truth and no future, and its overspend shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from time import perf_counter

import numpy as np
import pytest

from bench.triage.looks import Look, Stream
from bench.triage.metrics import auroc, errors_of, judge, near_duplicate_rate
from bench.triage.peers import SCORES, TWO_PASS_SCORES, Peer, PeerMissing, peers_here, scores_of
from bench.triage.peers.chance import Random, Uniform
from bench.triage.peers.diversity import AdaptiveDiversity, Vessal
from bench.triage.peers.embeddings import embeddings
from bench.triage.peers.pacing import QuantileTracker, Sbad
from bench.triage.peers.peer import real_package
from bench.triage.peers.ranking import TopK, WindowTopK
from bench.triage.peers.scores import (
    binary_entropy,
    brust_max,
    brust_sum,
    cald,
    close_to_threshold,
    egl,
    enms,
    entropy_max,
    entropy_mean,
    entropy_sum,
    expected_errors,
    lightly_objectness,
    ppal,
    sedna_ibt,
)
from bench.triage.peers.triggers import CloseToThreshold, SednaIbt, SednaThreshold, Thinned
from edgecase_models.detections import Detections
from support.streams import SeenWithMore, a_look, a_stream, spliced
from support.streams import synthetic as made

synthetic = cache(made)  # streams are read-only

PEERS, LEFT_OUT = peers_here()
BY_NAME = {peer.name: peer for peer in PEERS}
EVERY_PEER = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
BOUNDLESS = {"Sedna threshold", "Sedna IBT"}  # they know no budget
LOOSE = {"quantile tracker": 0.05, "scikit-activeml BIQF": 0.10, "LightlyEdge-like adaptive diversity": 0.10}


def picked(peer: Peer, stream: Stream, budget: int, seed: int = 0) -> list[int]:
    return peer.pick(stream, budget, np.random.default_rng(seed))


def score_only(look: Look, stream: Stream) -> float:
    """A score that a test can set: the first detection's."""
    return float(look.seen.scores[0]) if len(look.seen) else 0.0


def of_scores(scores: Sequence[float]) -> Stream:
    """A stream whose frames hold one box each, of the given score."""
    looks = [a_look(index, Detections.of([(0, 0, 40, 40)], [score], [0])) for index, score in enumerate(scores)]
    return a_stream(looks)


# ---- all of them ---------------------------------------------------------------------------------------------------


def test_names_are_unique_and_random_comes_first() -> None:
    assert len(BY_NAME) == len(PEERS)
    assert PEERS[0].name == "random"


@EVERY_PEER
@pytest.mark.parametrize("features", [False, True])
def test_picks_are_frames_in_order_and_within_the_budget(peer: Peer, features: bool) -> None:
    stream = synthetic(3, 1200, features=features)
    picks = picked(peer, stream, 60)
    assert picks == sorted(set(picks))
    assert all(isinstance(pick, int) and 0 <= pick < 1200 for pick in picks)
    assert picks
    if peer.name not in BOUNDLESS:
        assert len(picks) <= 60 * (1 + LOOSE.get(peer.name, 0))


@EVERY_PEER
def test_the_same_generator_repeats_every_pick(peer: Peer) -> None:
    stream = synthetic(5, 600)
    assert picked(peer, stream, 30, seed=4) == picked(peer, stream, 30, seed=4)


@EVERY_PEER
@pytest.mark.parametrize("features", [False, True])
def test_a_streaming_peer_knows_no_future(peer: Peer, features: bool) -> None:
    """What comes after frame 600, a multiple of every window, changes no pick before it."""
    stream, other = synthetic(3, 1200, features=features), synthetic(4, 1200, features=features)
    changed = spliced(stream, other, 600)
    before, after = ([pick for pick in picked(peer, each, 60) if pick < 600] for each in (stream, changed))
    assert before == after or not peer.streaming


@EVERY_PEER
def test_no_peer_sees_the_truth(peer: Peer) -> None:
    stream = synthetic(5, 600)
    none = np.zeros(0, np.int64)
    blinded = replace(
        stream,
        looks=tuple(
            replace(
                look,
                truth_boxes_xyxy_px=np.zeros((0, 4)),
                truth_classes=none,
                truth_tracks=none,
                scene=0,
                condition="",
            )
            for look in stream.looks
        ),
    )
    assert picked(peer, stream, 30) == picked(peer, blinded, 30)


@EVERY_PEER
def test_frames_without_a_box_trouble_nobody(peer: Peer) -> None:
    empty = a_stream([a_look(index) for index in range(300)])
    picks = picked(peer, empty, 15)
    assert all(0 <= pick < 300 for pick in picks)
    # A threshold that equals every score lets every frame pass: that is the package's own doing.
    assert len(picks) <= 17 or peer.name == "scikit-activeml BIQF"


@EVERY_PEER
@pytest.mark.parametrize("frames", [0, 1, 3])
def test_the_shortest_streams_trouble_nobody(peer: Peer, frames: int) -> None:
    picks = picked(peer, synthetic(6, frames), 2)
    assert all(0 <= pick < frames for pick in picks)


@pytest.mark.slow
@EVERY_PEER
def test_six_thousand_frames_take_seconds(peer: Peer, six_thousand: Stream) -> None:
    start = perf_counter()
    picks = picked(peer, six_thousand, 300)
    assert perf_counter() - start < 20  # on a busy machine; a second or two on a quiet one
    if peer.name not in BOUNDLESS:
        assert 0.5 * 300 <= len(picks) <= 300 * (1 + LOOSE.get(peer.name, 0))


@pytest.fixture(scope="module")
def six_thousand() -> Stream:
    return synthetic(7, 6000, features=True)


def test_a_missing_package_is_named_with_its_cure() -> None:
    with pytest.raises(PeerMissing, match=r"no-such-package.*pip install 'edgecase\[bench\]'"):
        real_package("no_such_module", "no-such-package")


def test_a_peer_that_cannot_run_is_left_out_with_a_reason() -> None:
    expected = {"lightly-mundig, diversity", "scikit-activeml BIQF"}
    assert {name for name in expected if name in BY_NAME or any(name in reason for reason in LEFT_OUT)} == expected


def test_the_uncertainty_that_is_handed_in_is_the_one_that_is_used() -> None:
    peers, _ = peers_here(uncertainty=score_only)
    stream = synthetic(5, 600)
    pool = next(peer for peer in peers if peer.name == "uncertainty, top-k of the pool")
    assert picked(pool, stream, 20) == picked(TopK("by hand", score_only), stream, 20)


# ---- chance --------------------------------------------------------------------------------------------------------


def test_random_takes_every_frame_with_the_same_probability() -> None:
    stream = a_stream([a_look(index) for index in range(40)])
    counts = np.zeros(40)
    for seed in range(3000):
        picks = picked(Random(), stream, 8, seed)
        assert len(picks) == 8
        counts[picks] += 1
    assert counts / 3000 == pytest.approx(np.full(40, 0.2), abs=0.04)


def test_uniform_picks_lie_evenly_and_begin_anywhere() -> None:
    stream = a_stream([a_look(index) for index in range(100)])
    for seed in range(20):
        picks = picked(Uniform(), stream, 5, seed)
        assert set(np.diff(picks)) == {20}
    assert len({picked(Uniform(), stream, 5, seed)[0] for seed in range(20)}) > 8
    assert picked(Uniform(), stream, 500) == list(range(100))
    assert picked(Uniform(), stream, 0) == []


# ---- rules ---------------------------------------------------------------------------------------------------------


def test_close_to_threshold_counts_boxes_strictly_nearer_than_epsilon() -> None:
    seen = Detections.of([(0, 0, 9, 9)] * 5, [0.9, 0.625, 0.5, 0.25, 0.2], [0] * 5)
    stream = a_stream([a_look(0, seen)], operating_point=0.375)
    assert close_to_threshold(stream.looks[0], stream, epsilon=0.25) == 3  # 0.5, 0.25 and 0.2; 0.625 lies at ε


def test_close_to_threshold_tosses_its_coin_and_stops_at_the_minutes_limit() -> None:
    stream = of_scores([0.4] * 1200)  # two minutes at 10 per second
    picks = np.array(picked(CloseToThreshold(), stream, 60))
    assert len(picks) == 60
    assert (picks < 600).sum() == 30
    assert picks[29] < 100  # first come, first served: the minute's thirty are gone within seconds
    assert np.mean(np.diff(picks[:30])) == pytest.approx(2, abs=0.8)


def test_close_to_threshold_never_fires_on_an_empty_or_a_sure_frame() -> None:
    assert picked(CloseToThreshold(), of_scores([0.9] * 600), 60) == []
    assert picked(CloseToThreshold(), a_stream([a_look(index) for index in range(600)]), 60) == []


def test_close_to_threshold_keeps_to_the_budget_when_the_last_minute_is_short() -> None:
    assert len(picked(CloseToThreshold(probability=1), of_scores([0.4] * 700), 70)) == 70


def test_sednas_threshold_is_the_mean_score_of_the_reported_boxes() -> None:
    stream = of_scores([0.45, 0.55, 0.1, 0.5])  # 0.1 is not reported: a frame without boxes is never hard
    assert picked(SednaThreshold(), stream, 0) == [0]
    assert picked(SednaThreshold(threshold=0.6), stream, 0) == [0, 1, 3]


def test_sednas_ibt_is_the_share_of_boxes_at_or_below_the_box_threshold() -> None:
    both = Detections.of([(0, 0, 9, 9)] * 2, [0.9, 0.5], [0, 0])
    sure = Detections.of([(0, 0, 9, 9)] * 3, [0.9, 0.8, 0.5], [0, 0, 0])
    stream = a_stream([a_look(0, both), a_look(1, sure), a_look(2)])
    assert picked(SednaIbt(), stream, 0) == [0]
    assert picked(SednaIbt(threshold_img=0.7), stream, 0) == [0, 1]
    assert picked(SednaIbt(threshold_img=1.0), stream, 0) == [0, 1]  # never one without boxes
    assert [sedna_ibt(look, stream) for look in stream.looks] == pytest.approx([1 / 2, 1 / 3, 0])


def test_a_peer_without_a_budget_overspends_and_the_judge_says_by_how_much() -> None:
    stream = synthetic(3, 1200)
    hard = picked(SednaThreshold(), stream, 30)
    assert len(hard) > 30
    assert judge(stream, errors_of(stream), hard, 30).overspend == len(hard) - 30
    thinned = picked(Thinned(SednaThreshold()), stream, 30)
    assert len(thinned) == 30
    assert set(thinned) < set(hard)


# ---- ranking and pacing --------------------------------------------------------------------------------------------


def test_the_pools_top_k_are_the_highest_and_the_earlier_of_equals() -> None:
    stream = of_scores([0.1, 0.9, 0.5, 0.9, 0.9])
    assert picked(TopK("by hand", score_only), stream, 2) == [1, 3]


def test_a_windows_top_k_are_paced() -> None:
    scores = [0.1] * 60
    scores[3], scores[4], scores[5], scores[17] = 0.9, 0.8, 0.7, 0.2
    assert picked(WindowTopK("by hand", score_only, window=10), of_scores(scores), 6) == [3, 17, 20, 30, 40, 50]
    assert picked(WindowTopK("by hand", score_only, window=20), of_scores(scores), 3) == [3, 20, 40]
    assert len(picked(WindowTopK("by hand", score_only, window=7), of_scores(scores), 4)) == 4


def test_sbad_takes_the_first_that_exceed_the_percentile_of_its_warm_up() -> None:
    warm_up = list(np.linspace(0.1, 0.5, 100))
    stream = of_scores([*warm_up, *([0.45] * 50), *([0.6] * 300)])
    assert picked(Sbad("by hand", score_only, warm_up=100), stream, 25) == list(range(150, 175))
    assert picked(Sbad("by hand", score_only, warm_up=100), of_scores([*warm_up, *([0.1] * 300)]), 20) == []


def test_the_quantile_tracker_holds_the_rate_of_a_drifting_score() -> None:
    chance = np.random.default_rng(0)
    stream = of_scores(np.clip(np.linspace(0.1, 0.8, 4000) + chance.normal(0, 0.05, 4000), 0, 1).tolist())
    picks = np.array(picked(QuantileTracker("by hand", score_only), stream, 200))
    assert len(picks) == pytest.approx(200, rel=0.1)
    assert np.histogram(picks, bins=4, range=(0, 4000))[0].min() > 30


# ---- diversity -----------------------------------------------------------------------------------------------------


def test_embeddings_are_the_models_features_where_it_has_them() -> None:
    stream = synthetic(18, 300, features=True)
    vectors = embeddings(stream, causal=False)
    assert vectors.shape == (300, 32)
    assert vectors.mean(axis=0) == pytest.approx(np.zeros(32), abs=1e-6)
    assert vectors.std(axis=0) == pytest.approx(np.ones(32), abs=1e-6)
    by_hand = np.array([getattr(look.seen, "features", None) for look in stream.looks])
    assert np.corrcoef(vectors[:, 3], by_hand[:, 3])[0, 1] == pytest.approx(1)


def test_without_features_brightness_and_classes_weigh_the_same() -> None:
    vectors = embeddings(synthetic(18, 300), causal=False)
    assert vectors.shape == (300, 48 + 3)
    assert (vectors[:, :48] ** 2).sum(axis=1).mean() == pytest.approx(1)
    assert (vectors[:, 48:] ** 2).sum(axis=1).mean() == pytest.approx(1)


def test_causal_embeddings_come_to_those_of_the_pool() -> None:
    stream = synthetic(3, 1200, features=True)
    causal, pooled = embeddings(stream, causal=True), embeddings(stream, causal=False)
    assert causal[-1] == pytest.approx(pooled[-1])
    assert np.isfinite(causal).all()


def test_a_camera_that_shows_the_same_for_ever_has_an_embedding() -> None:
    same = a_stream([replace(a_look(0), index=index) for index in range(50)])
    assert embeddings(same, causal=True) == pytest.approx(0)
    assert embeddings(same, causal=False) == pytest.approx(0)


def crowded_and_rare(features: bool = True) -> Stream:
    """Nine frames of ten look alike, the others are all different; every frame is as doubtful."""
    chance = np.random.default_rng(0)
    looks = []
    for index in range(1000):
        vector = chance.normal(size=16) * 10 if index % 10 == 0 else chance.normal(size=16) * 0.1
        probabilities = np.array([[0.4, 0.0, 0.0]], np.float32)
        box = np.array([[0, 0, 40, 40]], np.float32)
        seen = SeenWithMore(
            box, np.array([0.4], np.float32), np.array([0], np.int32), probabilities, vector.astype(np.float32)
        )
        looks.append(a_look(index, seen))
    return a_stream(looks)


@pytest.mark.parametrize("name", ["VeSSAL", "LightlyEdge-like adaptive diversity", "lightly-mundig, diversity"])
def test_a_diverse_selection_prefers_what_is_rare(name: str) -> None:
    if name not in BY_NAME:
        pytest.skip("; ".join(LEFT_OUT))
    picks = np.array(picked(BY_NAME[name], crowded_and_rare(), 50))
    assert np.mean(picks % 10 == 0) > 0.6  # by chance 0.1


def test_vessal_follows_its_formula() -> None:
    """The one-pass bookkeeping gives the picks of p_t = z_t·gᵀÂ⁻¹g with Â⁻¹ and Σ̂ built anew at every step."""
    stream, budget, ridge = synthetic(13, 240, features=True), 24, 0.01
    gradients = embeddings(stream, causal=True) * np.sqrt(scores_of(stream, expected_errors))[:, None]
    draws = np.random.default_rng(5).random(240)
    picks: list[int] = []
    for t, g in enumerate(gradients):
        chosen = gradients[picks]
        inverse = np.linalg.inv(ridge * np.eye(gradients.shape[1]) + chosen.T @ chosen)
        covariance = gradients[: t + 1].T @ gradients[: t + 1] / (t + 1)
        scale = (budget - len(picks)) / (240 - t) / max(float(np.trace(covariance @ inverse)), 1e-12)
        if draws[t] < scale * (g @ inverse @ g):
            picks.append(t)
    assert picked(Vessal("by hand", expected_errors, ridge), stream, budget, seed=5) == picks
    assert 0.8 * budget <= len(picks) <= budget


def test_adaptive_diversity_holds_its_target_ratio() -> None:
    picks = picked(AdaptiveDiversity(), synthetic(14, 2400, features=True), 120)
    assert len(picks) == pytest.approx(120, rel=0.1)


def test_lightlys_engine_spreads_further_than_chance() -> None:
    if "lightly-mundig, diversity" not in BY_NAME:
        pytest.skip("; ".join(LEFT_OUT))
    stream = synthetic(3, 1200, features=True)
    rates = [
        near_duplicate_rate([(stream.looks[pick].scene, pick) for pick in picked(BY_NAME[name], stream, 60)])
        for name in ("lightly-mundig, diversity", "random")
    ]
    assert rates[0] < rates[1]


def test_lightlys_engine_weighs_by_the_score() -> None:
    weighted = BY_NAME.get("lightly-mundig, diversity × uncertainty")
    if weighted is None:
        pytest.skip("; ".join(LEFT_OUT))
    stream = synthetic(3, 1200, features=True)
    doubt = scores_of(stream, expected_errors)
    assert (
        doubt[picked(weighted, stream, 60)].mean()
        > 1.2 * doubt[picked(BY_NAME["lightly-mundig, diversity"], stream, 60)].mean()
    )


def test_biqf_picks_by_the_score_at_about_the_budgets_rate() -> None:
    balanced = BY_NAME.get("scikit-activeml BIQF")
    if balanced is None:
        pytest.skip("; ".join(LEFT_OUT))
    stream = synthetic(3, 1200)
    doubt = scores_of(stream, expected_errors)
    picks = picked(balanced, stream, 60)
    assert len(picks) == pytest.approx(60, abs=6)
    assert doubt[picks].mean() > 1.2 * doubt.mean()


# ---- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("features", [False, True])
def test_every_score_is_finite_and_0_without_boxes(name: str, features: bool) -> None:
    stream = synthetic(18, 300, features=features)
    assert np.isfinite(scores_of(stream, SCORES[name])).all()
    assert SCORES[name](a_look(0), stream) == 0


@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_see_the_order_of_the_boxes(name: str) -> None:
    stream = synthetic(19, 50, features=True)
    for look in stream.looks:
        seen = look.seen
        assert isinstance(seen, SeenWithMore)
        assert seen.probabilities is not None
        back = np.arange(len(seen))[::-1]
        turned = SeenWithMore(
            seen.boxes_xyxy_px[back], seen.scores[back], seen.classes[back], seen.probabilities[back], seen.features
        )
        assert SCORES[name](replace(look, seen=turned), stream) == pytest.approx(SCORES[name](look, stream))


def by_hand(*boxes: tuple[float, int], side: float = 40) -> tuple[Look, Stream]:
    """A look with boxes (score, class) of one size, and its stream; the operating point is 0.4."""
    places = [(60.0 * index, 0.0, 60.0 * index + side, side) for index in range(len(boxes))]
    look = a_look(0, Detections.of(places, [score for score, _ in boxes], [kind for _, kind in boxes]))
    return look, a_stream([look])


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_entropies_by_hand() -> None:
    given = by_hand((0.5, 0), (0.1, 1))
    assert entropy_sum(*given) == pytest.approx(math.log(2) + entropy(0.1))
    assert entropy_max(*given) == pytest.approx(math.log(2))
    assert entropy_mean(*given) == pytest.approx((math.log(2) + entropy(0.1)) / 2)
    assert binary_entropy(np.array([0.0, 1.0])) == pytest.approx(0, abs=1e-6)


def test_objectness_counts_reported_boxes_only() -> None:
    assert lightly_objectness(*by_hand((0.8, 0), (0.6, 0), (0.1, 0))) == pytest.approx(0.3)


def test_expected_errors_by_hand() -> None:
    assert expected_errors(*by_hand((0.8, 0), (0.5, 0), (0.1, 0))) == pytest.approx(0.2 + 0.5 + 0.1)


def test_ppal_leaves_out_small_narrow_and_improbable_boxes() -> None:
    assert ppal(*by_hand((0.5, 0), (0.04, 0))) == pytest.approx(math.log(2))
    assert ppal(*by_hand((0.5, 0), side=15)) == 0
    narrow = a_look(0, Detections.of([(0, 0, 100, 19)], [0.5], [0]))
    assert ppal(narrow, a_stream([narrow])) == 0


def test_ppal_weighs_what_the_detector_knows_badly() -> None:
    look, stream = by_hand((0.5, 0))
    weights = [ppal(look, stream, np.array([quality, 1, 1])) / math.log(2) for quality in (1.0, 0.5, 0.0)]
    assert weights[0] == pytest.approx(1)
    assert weights[2] == pytest.approx(1.2)  # the paper's range is [1, 1 + β]
    assert weights[0] < weights[1] < weights[2]


def test_enms_counts_a_class_once_where_boxes_cannot_be_told_apart() -> None:
    assert enms(*by_hand((0.5, 0), (0.3, 0), (0.2, 1))) == pytest.approx(entropy(0.5) + entropy(0.2))


def test_enms_keeps_boxes_of_a_class_that_are_unlike() -> None:
    boxes = np.array([[0, 0, 40, 40]] * 3, np.float32)
    probabilities = np.array([[0.5, 0.02, 0.0], [0.45, 0.0, 0.02], [0.3, 0.0, 0.9]], np.float32)
    seen = SeenWithMore(boxes, np.array([0.5, 0.45, 0.3]), np.zeros(3, np.int32), probabilities)
    look = a_look(0, seen)
    assert enms(look, a_stream([look])) == pytest.approx(entropy(0.5) + entropy(0.3), rel=1e-5)


def test_the_one_vs_two_margin_by_hand() -> None:
    assert brust_sum(*by_hand((0.9, 0), (0.5, 0))) == pytest.approx(0.2**2 + 1)
    assert brust_max(*by_hand((0.9, 0), (0.5, 0))) == pytest.approx(1)
    probabilities = np.array([[0.7, 0.6, 0.1]], np.float32)
    look = a_look(0, SeenWithMore(np.array([[0, 0, 9, 9]]), np.array([0.7]), np.array([0]), probabilities))
    assert brust_sum(look, a_stream([look])) == pytest.approx(0.9**2, rel=1e-5)


def test_expected_gradient_length_by_hand() -> None:
    assert egl(*by_hand((0.9, 0), (0.5, 0))) == pytest.approx(0.09 + 0.25)
    probabilities = np.array([[0.7, 0.5, 0.1]], np.float32)
    look = a_look(0, SeenWithMore(np.array([[0, 0, 9, 9]]), np.array([0.7]), np.array([0]), probabilities))
    assert egl(look, a_stream([look])) == pytest.approx(0.21 + 0.25 + 0.09, rel=1e-5)


def two_views(seen: Detections, second: Detections | None) -> tuple[Look, Stream]:
    look = a_look(0, seen, second=second)
    return look, a_stream([look])


def test_cald_by_hand() -> None:
    sure = Detections.of([(0, 0, 40, 40)], [0.9], [0])
    assert cald(*two_views(sure, sure)) == pytest.approx(-abs(1 + 0.9 - 1.3))
    half_on = Detections.of([(0, 20, 40, 60)], [0.9], [0])  # overlaps by a third
    assert cald(*two_views(sure, half_on)) == pytest.approx(-abs(1 / 3 + 0.9 - 1.3), rel=1e-5)


def test_cald_is_the_least_consistent_box_and_never_beyond_one() -> None:
    boxes = [(0.0, 0.0, 40.0, 40.0), (100.0, 0.0, 140.0, 40.0)]
    first = Detections.of(boxes, [0.9, 0.3], [0, 0])
    assert cald(*two_views(first, first)) == pytest.approx(-abs(1 + 0.3 - 1.3), abs=1e-6)
    apart = Detections.of([(200, 200, 240, 240)], [0.06], [0])
    assert cald(*two_views(Detections.of(boxes[:1], [0.06], [1]), apart)) == -1


def test_cald_takes_the_disagreement_about_the_class_into_account() -> None:
    sure, other = (Detections.of([(0, 0, 40, 40)], [0.8], [kind]) for kind in (0, 1))
    middle = np.array([0.4, 0.4, 0.2])
    p = np.array([0.8, 0.0, 0.2])
    divergence = float((p[p > 0] * np.log(p[p > 0] / middle[p > 0])).sum())
    assert cald(*two_views(sure, other)) == pytest.approx(-abs(1 + (1 - divergence) * 0.8 - 1.3), rel=1e-5)


def test_cald_chooses_frames_first_in_which_a_view_sees_nothing() -> None:
    sure = Detections.of([(0, 0, 40, 40)], [0.9], [0])
    assert cald(*two_views(sure, Detections.empty())) == 0
    assert cald(*two_views(Detections.empty(), sure)) == 0


def test_a_score_of_two_passes_needs_two() -> None:
    with pytest.raises(ValueError, match="no second pass"):
        cald(*two_views(Detections.empty(), None))
    stream = synthetic(20, 120, features=True, second=True)
    for name in TWO_PASS_SCORES:
        assert np.isfinite(scores_of(stream, TWO_PASS_SCORES[name])).all()


def test_scores_tell_failing_frames_from_others() -> None:
    """The synthetic stream's doubtful scenes fail: what is meant to see that sees it."""
    stream = synthetic(3, 1200)
    failures = errors_of(stream).failures
    for name in ("Roboflow close_to_threshold", "entropy, sum", "PPAL", "EGL"):
        assert auroc(scores_of(stream, SCORES[name]), failures) > 0.6
