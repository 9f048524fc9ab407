"""The selectors that ours is held against: on the same detections, the same stream and the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.triage.peers.chance import Random, Uniform
from bench.triage.peers.diversity import AdaptiveDiversity, Mundig, Vessal
from bench.triage.peers.pacing import Biqf, QuantileTracker, Sbad
from bench.triage.peers.peer import Peer, PeerMissing, ScoreOf, real_package, scores_of
from bench.triage.peers.ranking import TopK, WindowTopK
from bench.triage.peers.scores import SCORES, TWO_PASS_SCORES, entropy_max, entropy_sum, expected_errors, ppal
from bench.triage.peers.triggers import CloseToThreshold, SednaIbt, SednaThreshold, Thinned

__all__ = ["SCORES", "TWO_PASS_SCORES", "Peer", "PeerMissing", "ScoreOf", "expected_errors", "peers_here", "scores_of"]


def peers_here(
    uncertainty: ScoreOf = expected_errors, quality: NDArray[np.floating] | None = None
) -> tuple[list[Peer], list[str]]:
    """The peers that can run here, random first, and for each that cannot the reason to print.

    Selectors that take anybody's score get `uncertainty`: hand in the best that is measured, calibrated where there is a table, so that
    they differ from ours in the selection alone. `quality` (C,) in [0, 1] is PPAL's knowledge of the classes.
    """
    peers: list[Peer] = [
        Random(),
        Uniform(),
        CloseToThreshold(),
        SednaThreshold(),
        Thinned(SednaThreshold()),
        SednaIbt(),
        Thinned(SednaIbt()),
        WindowTopK("PPAL, window top-k", partial(ppal, quality=quality)),
        WindowTopK("entropy sum, window top-k", entropy_sum),
        TopK("entropy sum, top-k of the pool", entropy_sum),
        TopK("entropy max, top-k of the pool", entropy_max),
        TopK("uncertainty, top-k of the pool", uncertainty),
        Sbad("SBAD", uncertainty),
        QuantileTracker("quantile tracker", uncertainty),
        Vessal("VeSSAL", uncertainty),
        AdaptiveDiversity(),
    ]
    reasons: list[str] = []
    for module, distribution, made in _of_packages(uncertainty):
        try:
            real_package(module, distribution)
        except PeerMissing as missing:
            reasons.append(f"left out {' and '.join(peer.name for peer in made)}: {missing}")
        else:
            peers += made
    return peers, reasons


def _of_packages(uncertainty: ScoreOf) -> tuple[tuple[str, str, Sequence[Peer]], ...]:
    return (
        (
            "lightly_mundig",
            "lightly-mundig",
            [Mundig("lightly-mundig, diversity"), Mundig("lightly-mundig, diversity × uncertainty", uncertainty)],
        ),
        ("skactiveml.stream.budgetmanager", "scikit-activeml", [Biqf("scikit-activeml BIQF", uncertainty)]),
    )
