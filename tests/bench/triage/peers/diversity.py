"""Selectors that spread over the embedding: VeSSAL, an adaptive minimum distance as in LightlyEdge, and Lightly's engine itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.triage.looks import Stream
from bench.triage.peers.embeddings import embeddings
from bench.triage.peers.peer import ScoreOf, real_package, scores_of


@dataclass(frozen=True)
class Vessal:
    """Volume sampling for streaming active learning (Saran et al., ICML 2023, arXiv 2303.02535), from its formula.

    p_t = z_t·g_tᵀÂ⁻¹g_t with z_t = q_t / tr(Σ̂_t·Â⁻¹) and q_t = (k − n) / (T − t): the rate that is still to be had over the mean worth so
    far. Â = λ·I + Σ_picked g·gᵀ. A detector's frame has no one gradient; g is its embedding times the root of its score.
    """

    name: str
    score: ScoreOf
    ridge: float = 0.01
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:
        total = len(stream.looks)
        doubt = np.maximum(scores_of(stream, self.score), 0)
        gradients = embeddings(stream, causal=True) * np.sqrt(doubt)[:, None]
        inverse = np.eye(gradients.shape[1]) / self.ridge
        # gᵀÂ⁻¹g of every frame under the present Â, kept up to date for all at once; those ahead are not looked at before their turn.
        worth = (gradients**2).sum(axis=1) / self.ridge
        so_far = 0.0
        picks: list[int] = []
        for index, draw in enumerate(rng.random(total)):
            so_far += worth[index]
            rate = (budget - len(picks)) / (total - index)
            if draw * so_far / (index + 1) >= rate * worth[index]:
                continue
            picks.append(index)
            ahead = inverse @ gradients[index]
            scale = 1 + worth[index]
            inverse -= np.outer(ahead, ahead) / scale  # Woodbury, rank 1
            worth = np.maximum(worth - (gradients @ ahead) ** 2 / scale, 0)
            so_far = float(worth[: index + 1].sum())
        return picks


@dataclass(frozen=True)
class AdaptiveDiversity:
    """What LightlyEdge's documentation calls adaptive diversity: kept is what lies farther than a threshold from all in a ring memory.

    The threshold follows the target ratio ρ: ln τ ← ln τ + η·(1[kept] − ρ). Their embedding model is not to be had; ours is in its place.
    """

    memory: int = 256
    rate: float = 0.5
    name: str = "LightlyEdge-like adaptive diversity"
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        vectors = embeddings(stream, causal=True)
        share = budget / max(len(vectors), 1)
        squares = (vectors**2).sum(axis=1)
        ring, ring_squares = np.zeros((self.memory, vectors.shape[1])), np.zeros(self.memory)
        threshold = 0.0
        picks: list[int] = []
        for index, vector in enumerate(vectors):
            known = slice(0, min(len(picks), self.memory))
            apart = ring_squares[known] + squares[index] - 2 * (ring[known] @ vector)
            distance = float(np.sqrt(max(apart.min(), 0.0))) if picks else np.inf
            if index == 1:
                threshold = max(distance, 1e-6)
            kept = bool(budget) and distance > threshold
            if kept:
                ring[len(picks) % self.memory], ring_squares[len(picks) % self.memory] = vector, squares[index]
                picks.append(index)
            threshold *= float(np.exp(self.rate * (kept - share)))
        return picks


@dataclass(frozen=True)
class Mundig:
    """`lightly-mundig`, Lightly's real selection engine, on the whole pool: diversity, times a score where one is given."""

    name: str
    score: ScoreOf | None = None
    streaming: bool = False

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        count = min(budget, len(stream.looks))
        if not count:
            return []
        selection = real_package("lightly_mundig", "lightly-mundig").Selection()
        vectors = np.ascontiguousarray(embeddings(stream, causal=False), np.float32)
        selection.add_diversifying_strategy(embeddings=vectors, strength=1.0)
        if self.score is not None:
            weights = np.asarray(scores_of(stream, self.score), np.float32)
            selection.add_weighting_strategy(weights=weights, strength=1.0)
        chosen = selection.run_selection(
            preselected_indices=[], n_total_samples=len(vectors), n_samples_to_select=count
        )
        return sorted(int(index) for index in chosen)
