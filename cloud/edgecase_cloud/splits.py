"""Which pictures are learnt from and which are held out, so that near-duplicates never stand on both sides."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from edgecase_cloud.errors import Unusable


class SplitError(Unusable):
    """A rule that cannot be followed."""


class Split(StrEnum):
    """TRAIN is learnt from, VAL is held out, MARGIN is left out of both because it is too close to the other side."""

    TRAIN = "train"
    VAL = "val"
    MARGIN = "margin"


@dataclass(frozen=True)
class Shot:
    """A picture as the split sees it: which camera took it and when, as its clock said (`captured_at`) and really (`taken_at`)."""

    key: str
    device: str
    camera: str
    captured_at: datetime
    taken_at: datetime


@dataclass(frozen=True)
class SplitRule:
    """Time is cut into blocks of `block_s` per camera; a block is held out with probability `val_share`, by its hash.

    Held-out pictures closer than `gap_s` to one that is learnt from, across a block's border, are left out.
    """

    block_s: float = 60.0
    gap_s: float = 5.0
    val_share: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block_s <= 0 or self.gap_s < 0 or not 0 <= self.val_share < 1:
            raise SplitError(
                f"block_s must be above 0, gap_s 0 or more and val_share in [0, 1), not {self.block_s}, {self.gap_s} and {self.val_share}"
            )


def assign(shots: Iterable[Shot], rule: SplitRule) -> dict[str, Split]:
    """The split of every picture, by key.

    The side depends on the picture's own camera and time alone, so it stays the same in every later version of the dataset: what was held
    out once is never learnt from, whatever is labelled afterwards. That takes the clock's own word, which is never corrected; how far apart
    two pictures are takes the real times, or a clock that jumps would let neighbours straddle.
    """
    learnt: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    held: list[Shot] = []
    split: dict[str, Split] = {}
    for shot in shots:
        if _is_held_out(shot, rule):
            held.append(shot)
        else:
            learnt[shot.device, shot.camera].append(shot.taken_at.timestamp())
            split[shot.key] = Split.TRAIN
    for times in learnt.values():
        times.sort()
    for shot in held:
        near = _distance_s(learnt[shot.device, shot.camera], shot.taken_at.timestamp()) < rule.gap_s
        split[shot.key] = Split.MARGIN if near else Split.VAL
    return split


def _is_held_out(shot: Shot, rule: SplitRule) -> bool:
    block = int(shot.captured_at.timestamp() // rule.block_s)
    name = f"{rule.seed}\n{shot.device}\n{shot.camera}\n{rule.block_s}\n{block}"
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return drawn < rule.val_share


def _distance_s(times_s: list[float], at_s: float) -> float:
    index = bisect_left(times_s, at_s)
    return min((abs(each - at_s) for each in times_s[max(0, index - 1) : index + 1]), default=float("inf"))
