"""A second opinion where the first is doubtful: two members look at one frame, and what they disagree about is counted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecase_agent.ranks import Ranks
from edgecase_agent.scoring import Calibration, ClassWeights, entropies, error_probabilities, identity, weights_of
from edgecase_agent.source import Picture
from edgecase_models.boxes import Letterbox, iou_matrix
from edgecase_models.detections import Boxes, Classes, Detections, Scores
from edgecase_models.detector import StagesMs

PARTNER_IOU: Final = 0.5
RANKS_PER_PICK: Final = 4.0
"""A second look can change which frames are picked among the first this many times as many: rank in [1 − 4ρ, 1] for a share ρ."""

_MOST_SAVED: Final = 8.0
_PAIRS_AT_ONCE: Final = 1 << 20
_COST_WEIGHT: Final = 1 / 16


class Detecting(Protocol):
    """What a committee and the watch loop need of `edgecase_models.detector.Detector`."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def stride_px(self) -> int: ...

    @property
    def stages_ms(self) -> StagesMs: ...

    def detect(self, picture: Picture, *, shift_px: int = 0, mirrored: bool = False) -> Detections: ...

    def letterbox(self, picture: Picture) -> Letterbox: ...


# ---- members -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """What the second member saw, in the incumbent's classes, and what it could see.

    `seen_xyxy_px`: the part of the picture, x1, y1, x2, y2 in pixels. `knows` (C,): which of the incumbent's classes it has, None for all.
    `model_digest`: of the bundle that looked, empty for the incumbent's own. `took`: by what looked, None for the incumbent's own time.
    """

    detections: Detections
    seen_xyxy_px: tuple[float, float, float, float]
    knows: NDArray[np.bool_] | None = None
    model_digest: str = ""
    took: StagesMs | None = None


class Member(Protocol):
    """A second member: it looks at the picture that `incumbent` was given first. Where it raises, that first look counts."""

    def look(self, picture: Picture, incumbent: Detecting) -> View: ...


class Loaded(Protocol):
    """A detector with the digest of its bundle; `running.Model` is one."""

    @property
    def detector(self) -> Detecting: ...

    @property
    def digest(self) -> str: ...


class Shifted:
    """The incumbent itself, on the picture moved by half a stride: as good a second member as an independent model, and no memory."""

    def look(self, picture: Picture, incumbent: Detecting) -> View:
        """Detections of the moved picture; what left the model's input at the right and at the bottom was not seen."""
        shift_px = incumbent.stride_px // 2
        detections = incumbent.detect(picture, shift_px=shift_px)
        box = incumbent.letterbox(picture)
        (height, width), (rows, columns) = box.picture_hw_px, box.inner_hw_px
        right = min(columns, box.input_hw_px[1] - box.left_px - shift_px) / columns
        bottom = min(rows, box.input_hw_px[0] - box.top_px - shift_px) / rows
        return View(detections, (0.0, 0.0, width * right, height * bottom))


class Flipped:
    """The incumbent itself, on the picture with left and right exchanged. What is asymmetric (text, a kerb) looks wrong to it."""

    def look(self, picture: Picture, incumbent: Detecting) -> View:
        return View(incumbent.detect(picture, mirrored=True), _whole(picture, incumbent))


class Independent:
    """Another model. Its classes are matched to the incumbent's by name; those that the incumbent does not know are left out."""

    def __init__(self, detector: Detecting, model_digest: str = "") -> None:
        self._detector = detector
        self._digest = model_digest

    def look(self, picture: Picture, incumbent: Detecting) -> View:
        detections, knows = _translated(self._detector.detect(picture), self._detector.names, incumbent.names)
        return View(detections, _whole(picture, incumbent), knows, self._digest, self._detector.stages_ms)


class Shadow:
    """The candidate that lies in the other slot, for as long as `candidate` gives one; `otherwise` looks while there is none.

    The candidate may change from look to look, and may itself be the model that runs by now: then it is no second opinion.
    """

    def __init__(self, candidate: Callable[[], Loaded | None], otherwise: Member | None = None) -> None:
        """`otherwise` left out is `Flipped`."""
        self._candidate = candidate
        self._otherwise = Flipped() if otherwise is None else otherwise

    def look(self, picture: Picture, incumbent: Detecting) -> View:
        candidate = self._candidate()
        if candidate is None or candidate.detector is incumbent:
            return self._otherwise.look(picture, incumbent)
        return Independent(candidate.detector, candidate.digest).look(picture, incumbent)


def _whole(picture: Picture, incumbent: Detecting) -> tuple[float, float, float, float]:
    height, width = incumbent.letterbox(picture).picture_hw_px
    return (0.0, 0.0, float(width), float(height))


def _translated(
    detections: Detections, theirs: Sequence[str], ours: Sequence[str]
) -> tuple[Detections, NDArray[np.bool_]]:
    """Detections in our classes, and which of those the other model knows; what has no name of ours is left out."""
    places = {name: index for index, name in enumerate(ours)}
    table = np.array([*(places.get(name, -1) for name in theirs), -1], np.int32)  # the last: an index beyond its names
    shared = np.flatnonzero(table >= 0)
    knows = np.zeros(len(ours), np.bool_)
    knows[table[shared]] = True
    classes = table[np.minimum(detections.classes, len(theirs))]
    kept = detections[classes >= 0]
    probabilities = None
    if kept.probabilities is not None:
        probabilities = np.zeros((len(kept), len(ours)), np.float32)
        probabilities[:, table[shared]] = kept.probabilities[:, shared]
    return Detections(kept.boxes_xyxy_px, kept.scores, classes[classes >= 0], probabilities), knows


# ---- what they disagree about ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Matching:
    """Who saw the same: `pairs` (K, 2) indices into both members' detections, and those without a partner."""

    pairs: NDArray[np.intp]
    only_a: NDArray[np.intp]
    only_b: NDArray[np.intp]


def match(a: Detections, b: Detections, iou: float = PARTNER_IOU, *, same_class: bool = True) -> Matching:
    """Partners that overlap by at least `iou`: the best-scored of `a` chooses first, and the best overlap.

    Of the same class, or of any where `same_class` is False. Pairs are looked at in blocks, so that memory is bounded for any number.
    """
    order = np.argsort(-a.scores, kind="stable")
    free_a, free_b = np.ones(len(a), np.bool_), np.ones(len(b), np.bool_)
    pairs = []
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(b)))
    for start in range(0, len(a), rows):
        chosen = order[start : start + rows]
        overlap = iou_matrix(a.boxes_xyxy_px[chosen], b.boxes_xyxy_px)
        fits = (overlap >= iou) & free_b
        if same_class:
            fits &= a.classes[chosen, None] == b.classes
        overlap[~fits] = 0
        for row in np.flatnonzero(fits.any(axis=1)).tolist():
            partner = int(overlap[row].argmax())
            if overlap[row, partner] > 0:
                pairs.append((int(chosen[row]), partner))
                free_a[chosen[row]] = free_b[partner] = False
                overlap[:, partner] = 0
    return Matching(np.array(pairs, np.intp).reshape(-1, 2), np.flatnonzero(free_a), np.flatnonzero(free_b))


@dataclass(frozen=True, eq=False, slots=True)
class Disagreement:
    """What a second view says about the first member's detections. `c_ede` ranks frames; the others, which rank them worse, are reasons.

    `c_ede`: the errors that the committee expects of the first member, the sum of `errors` (N,), of each of its own candidates, and
    `only_second_errors` (M,), of `only_second`, the candidates that the second member alone has.
    `hard`: objects that exactly one of the two reports. `missed`: of those, the ones that the second reports and the first does not, each
    counted with its probability: one member alone sees it.
    `vote_entropy`, `consensus_entropy` and `mutual_information`, in nats, are sums over the union of candidates; see `disagreement`.
    """

    c_ede: float
    errors: NDArray[np.float64]
    only_second: Detections
    only_second_errors: NDArray[np.float64]
    hard: int
    missed: float
    vote_entropy: float
    consensus_entropy: float
    mutual_information: float


def disagreement(
    a: Detections,
    view: View,
    operating_point: float,
    calibration: Calibration = identity,
    iou: float = PARTNER_IOU,
    *,
    weights: ClassWeights | None = None,
) -> Disagreement:
    """What the second member's view says about the first member's detections `a`.

    Over the union of both members' candidates, partners being one, with q the probability that a candidate is a true object, and a missing
    partner's score 0:

    * C-EDE = Σ (1 − q) of those that `a` reports + Σ q of the rest, each times the weight of its class. q is the calibrated mean of both
      scores: the table, fitted on single scores, takes the mean for one. It rises with the mean, so that the order of candidates holds, but
      not with its level: what one member is sure of and the other misses has a mean of a half, and whether that is a true object in as many
      cases as a single score of a half depends on how independent the members are. C-EDE ranks frames; it does not count their errors.
    * Vote entropy (Dagan and Engelson 1995) −Σ_c (V_c / 2)·ln(V_c / 2), a vote being the class that a member reports or none: ln 2 for each
      object on which they differ. Two reports of different classes at one place are one object here, and two in `hard`.
    * Consensus entropy Σ_c H(p̄_c), p̄ being the mean of both members' class probabilities, H the entropy of a yes or no.
    * Mutual information Σ_c [H(p̄_c) − (H(p_ac) + H(p_bc)) / 2] (BALD: Houlsby et al. 2011, arXiv 1112.5745; for detectors Haussmann et al.
      2020, arXiv 2004.04699). With two equal weights it is the Jensen-Shannon divergence.

    The last two use the scores alone where a member does not give the probabilities of all classes. Candidates of `a` whose centre lies
    outside the part that the second member saw, or whose class it does not have, keep their own score, and count for no disagreement.
    """
    b = view.detections
    matching = match(a, b, iou)
    unseen = matching.only_a[_unseen(a.boxes_xyxy_px[matching.only_a], a.classes[matching.only_a], view)]
    scores = np.stack(_paired(a.scores[:, None], b.scores[:, None], matching, unseen))[..., 0]
    reported_a, reported_b = scores >= operating_point
    means = scores.mean(axis=0)
    only_b = b[matching.only_b]
    classes = np.concatenate([a.classes, only_b.classes])
    q = _probabilities(means, classes, calibration)
    wrong = error_probabilities(q, reported_a)
    if weights is not None:
        wrong *= weights_of(classes, weights)
    alone_b = reported_b & ~reported_a
    union = Detections(np.concatenate([a.boxes_xyxy_px, only_b.boxes_xyxy_px]), means, classes)
    lone = match(union[reported_a & ~reported_b], union[alone_b], iou, same_class=False)
    hard = int(np.count_nonzero(reported_a != reported_b))
    consensus, mutual = _information(a, b, matching, unseen)
    return Disagreement(
        c_ede=float(wrong.sum()),
        errors=wrong[: len(a)],
        only_second=only_b,
        only_second_errors=wrong[len(a) :],
        hard=hard,
        missed=float(q[alone_b].sum()),
        vote_entropy=math.log(2) * (hard - len(lone.pairs)),
        consensus_entropy=consensus,
        mutual_information=mutual,
    )


def _unseen(boxes_xyxy_px: Boxes, classes: Classes, view: View) -> NDArray[np.bool_]:
    """Which of these (N,) the second member could not have seen."""
    outside = _outside(boxes_xyxy_px, view.seen_xyxy_px)
    if view.knows is None:
        return outside
    known = np.append(view.knows, False)[np.minimum(classes, len(view.knows))]
    return np.asarray(outside | ~known, np.bool_)


def _outside(boxes_xyxy_px: Boxes, area_xyxy_px: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    centre = (boxes_xyxy_px[:, :2] + boxes_xyxy_px[:, 2:]) / 2
    left, top, right, bottom = area_xyxy_px
    inside = (centre >= (left, top)).all(axis=1) & (centre < (right, bottom)).all(axis=1)
    return np.asarray(~inside, np.bool_)


def _paired(
    of_a: NDArray[np.float32], of_b: NDArray[np.float32], matching: Matching, unseen: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both members' values (·, C) over the union: the candidates of `a` in their order, then those of `b` alone. Who has none says 0;
    what the second could not see it is taken to agree on.
    """
    count = len(of_a) + len(matching.only_b)
    first, second = np.zeros((2, count, of_a.shape[1]), np.float32)
    first[: len(of_a)] = of_a
    second[matching.pairs[:, 0]] = of_b[matching.pairs[:, 1]]
    second[unseen] = of_a[unseen]
    second[len(of_a) :] = of_b[matching.only_b]
    return first, second


def _probabilities(means: Scores, classes: Classes, calibration: Calibration) -> NDArray[np.float64]:
    """The probability (N + M,) that each is a true object."""
    if not len(means):
        return np.zeros(0)
    return np.clip(np.asarray(calibration(means, classes), np.float64), 0.0, 1.0)


def _information(a: Detections, b: Detections, matching: Matching, unseen: NDArray[np.intp]) -> tuple[float, float]:
    """Consensus entropy and mutual information, from all classes where both members give them alike, else from the scores."""
    of_a, of_b = a.probabilities, b.probabilities
    if of_a is None or of_b is None or of_a.shape[1] != of_b.shape[1]:
        of_a, of_b = a.scores[:, None], b.scores[:, None]
    first, second = _paired(of_a, of_b, matching, unseen)
    consensus = float(entropies((first + second) / 2).sum(dtype=np.float64))
    own = float(entropies(first).sum(dtype=np.float64) + entropies(second).sum(dtype=np.float64)) / 2
    return consensus, max(0.0, consensus - own)


# ---- which frames the second member sees -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SecondLook:
    """Ask the second member. `propensity`: 1 where the first score's rank demands it, else the known chance of a random look.

    `rank`: the share of recent frames whose first score is lower.
    """

    propensity: float
    rank: float = 0.0


class Cascade:
    """Decides which frames the second member sees: those whose first score is among the highest `share` of the last `window`, and a
    `random_share` of the others, so that what the rank misses stays measurable. Deterministic given `seed`; memory is `window` scores.

    While scores rise every frame ranks high; so that the cost stays what was asked for, looks by rank come to no more than `share` of the
    frames and a few saved ones.

    Second looks take no more than `compute_share` of the time that first and second looks take together (0.2: a quarter on top of the
    first), over any stretch, give or take some 8 looks saved or owed. The caller tells what they took. Random looks are not refused for
    it, or the sample would lean towards cheap stretches: they are paid first and looks by rank wait, and where even they would take more
    than half of what is allowed, their chance is lowered beforehand. Only with 8 looks owed has a frame no chance; `without_chance` counts
    those.

    **Estimates.** Whether a frame demands a look by rank depends on earlier frames and on its own first score only, and the draw on
    nothing; so its chance π (the `propensity` of its look) is known before. Over all T judged frames, (1/T)·Σ_looked y/π is therefore an
    unbiased estimate of the mean of any y that a look gives, C-EDE for one (Horvitz and Thompson 1952; its errors are martingale
    differences, since the chances adapt), but for frames without chance, which it counts as 0. Where y is close to the first score x,
    (1/T)·[Σ_all x + Σ_looked (y − x)/π] has the same mean and varies less.
    """

    def __init__(
        self,
        share: float = 0.2,
        random_share: float = 0.01,
        window: int = 512,
        seed: int = 0,
        compute_share: float = 1.0,
    ) -> None:
        """`share` may be given for each frame instead; a `compute_share` of 1 is no limit. `ValueError` for shares that are none."""
        if not (0 <= share <= 1 and 0 <= random_share <= 1 and 0 < compute_share <= 1 and window >= 1):
            raise ValueError(
                f"shares lie in [0, 1], that of the time above 0, and a window holds a frame: not share {share}, "
                f"random_share {random_share}, compute_share {compute_share}, window {window}"
            )
        self._share = share
        self._random_share = random_share
        self._ranks = Ranks(window)
        self._saved = 0.0
        self._purse = _Purse(compute_share)
        self._chance = random.Random(seed)  # noqa: S311 (a sample, not a secret)
        self.without_chance = 0

    def judge(
        self, value: float, first_ms: float = 0.0, budget_share: float | None = None, *, rank: float | None = None
    ) -> SecondLook | None:
        """Whether the frame with this first score deserves a second look.

        `first_ms`: what the first look took. `budget_share`: the share ρ of frames that can be kept now; given, the highest 4ρ are looked
        at in the place of `share`. `rank`: the share of recent first scores below this one, from a caller that ranks them itself; left
        out, the cascade remembers the last `window` scores.
        `ValueError` for a score that is not finite, a rank or a share that is none, or a time that is none.
        """
        if not math.isfinite(value):
            raise ValueError(f"a first score of {value} has no rank")
        if rank is not None and not 0 <= rank <= 1:
            raise ValueError(f"a rank lies in [0, 1], not at {rank}")
        share = self._share if budget_share is None else _rank_share(budget_share)
        self._purse.earn(first_ms)
        rank = self._ranks.rank(value) if rank is None else rank
        chance = self._purse.chance_of(self._random_share)
        drawn = self._chance.random() < chance
        self._saved = min(_MOST_SAVED, self._saved + share)
        if min(rank, share) > 0 and rank >= 1 - share and self._saved >= 1 and self._purse.affords_a_look:
            self._saved -= 1
            self._purse.owe()
            return SecondLook(1.0, rank)
        self.without_chance += chance == 0 < self._random_share
        if not drawn:
            return None
        self._purse.owe()
        return SecondLook(chance, rank)

    def looked(self, second_ms: float) -> None:
        """What the last second look took. Of a look that failed it may stay untold: it counts as a usual one. `ValueError` for no time."""
        self._purse.settle(second_ms)


class _Purse:
    """Milliseconds that second looks may still take: each first look brings its share; at most 8 looks are saved, and at most 8 owed."""

    def __init__(self, share: float) -> None:
        self._gain = share / (1 - share) if share < 1 else math.inf
        self._saved_ms = 0.0
        self._owed_ms = 0.0
        self._first_ms = 0.0
        self._second_ms: float | None = None

    @property
    def affords_a_look(self) -> bool:
        return math.isinf(self._gain) or self._saved_ms >= self._look_ms

    def earn(self, first_ms: float) -> None:
        """A first look took this long."""
        self._first_ms = _smoothed(self._first_ms or None, first_ms)
        if math.isfinite(self._gain):
            self._saved_ms = min(_MOST_SAVED * self._look_ms, self._saved_ms + self._gain * first_ms)

    def chance_of(self, wished: float) -> float:
        """The chance of a random look on this frame: what is wished, or less where that would take over half of what comes in."""
        if math.isinf(self._gain) or self._look_ms == 0:
            return wished
        if self._saved_ms <= -_MOST_SAVED * self._look_ms:
            return 0.0
        return min(wished, self._gain * self._first_ms / self._look_ms / 2)

    def owe(self) -> None:
        """A look is about to be taken; it counts as a usual one until it is settled."""
        self._owed_ms = self._look_ms
        self._saved_ms -= self._owed_ms

    def settle(self, second_ms: float) -> None:
        """It took this long."""
        self._second_ms = _smoothed(self._second_ms, second_ms)
        self._saved_ms += self._owed_ms - second_ms
        self._owed_ms = 0.0

    @property
    def _look_ms(self) -> float:
        """What a second look takes; as long as a first one while none was taken."""
        return self._first_ms if self._second_ms is None else self._second_ms


def _smoothed(mean_ms: float | None, took_ms: float) -> float:
    if not (math.isfinite(took_ms) and took_ms >= 0):
        raise ValueError(f"a look cannot take {took_ms} ms")
    return took_ms if mean_ms is None else mean_ms + (took_ms - mean_ms) * _COST_WEIGHT


def _rank_share(budget_share: float) -> float:
    if not budget_share >= 0:
        raise ValueError(f"a share of frames cannot be {budget_share}")
    return min(1.0, RANKS_PER_PICK * budget_share)
