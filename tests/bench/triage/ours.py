"""Ours, as the device runs it: `Judge` and `Selection` over a recorded stream; only the detector's passes are played back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from bench.triage.looks import Look, Stream
from edgecase_agent.budget import PurseState
from edgecase_agent.committee import Cascade, Detecting, View
from edgecase_agent.judge import Committee, Judge, Shown
from edgecase_agent.rules import Rules
from edgecase_agent.scoring import Calibration, ClassWeights, identity
from edgecase_agent.selection import Keep, Selection, SelectionState, Verdict
from edgecase_agent.source import Picture
from edgecase_models.boxes import Letterbox
from edgecase_models.detections import Detections
from edgecase_models.detector import StagesMs
from edgecase_models.policy import SecondMember
from edgecase_models.strategy import Strategy

UNSEEN = 16 / 384
PICKS_PER_WINDOW, GAP_OF_MEAN = 15, 0.45
"""A window as long as the budget's next 15 frames, so that more of them go to the bad scenes, and picks no nearer than this share of their
mean distance.
"""
RULES = Rules(leaders=48)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class _Played:
    """The detector, played back: every pass took as long as another."""

    stride_px = 32
    stages_ms = StagesMs(0.0, 10.0, 0.0)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.look: Look | None = None

    def detect(self, picture: Picture, *, shift_px: int = 0, mirrored: bool = False) -> Detections:  # noqa: ARG002
        raise AssertionError("every pass was recorded")

    def letterbox(self, picture: Picture) -> Letterbox:  # noqa: ARG002
        raise AssertionError("every pass was recorded")


def second_view(look: Look, member: SecondMember) -> View:
    """The recorded pass of the second member, with the part of the picture that it saw.

    The starter's input is 384 pixels wide, and half a stride of them left it at the right of the shifted pass.
    """
    assert look.shifted is not None, "the stream was recorded in three passes"
    assert look.flipped is not None, "the stream was recorded in three passes"
    height, width = map(float, look.hw_px)
    if member is SecondMember.FLIPPED:
        return View(look.flipped, (0.0, 0.0, width, height))
    return View(look.shifted, (0.0, 0.0, width * (1 - UNSEEN), height))


class _SecondPass:
    """The second member, played back."""

    def __init__(self, played: _Played, member: SecondMember) -> None:
        self._played = played
        self._member = member

    def look(self, picture: Picture, incumbent: Detecting) -> View:  # noqa: ARG002
        assert self._played.look is not None, "a first pass went before"
        return second_view(self._played.look, self._member)


@dataclass(frozen=True)
class _Model:
    detector: Detecting
    digest: str
    names: tuple[str, ...]
    operating_point: float
    calibration: Calibration
    difficulty: ClassWeights | None = None


@dataclass(frozen=True)
class Ours:
    """The whole of it under one set of rules. The budget, and the window and the gap that follow from it, are put in by `run`."""

    name: str = "edgecase"
    rules: Rules = RULES
    calibration: Calibration = identity
    strategy: Strategy = Strategy.EDE
    committee: bool = True
    member: SecondMember = SecondMember.FLIPPED
    share: float = 0.2

    def run(self, stream: Stream, budget: int, seed: int) -> Run:
        """What the device would keep of the stream at a rate of `budget` frames over its whole length, beginning with nothing saved."""
        mean_s = len(stream.looks) / stream.fps / budget
        rules = replace(
            self.rules,
            window_s=PICKS_PER_WINDOW * mean_s,
            gap_s=GAP_OF_MEAN * mean_s,
            budget={"frames": {"hour": 3600 / mean_s}},
            seed=seed,
        )
        empty = SelectionState(purse=PurseState(at_s=EPOCH.timestamp(), credit={"frames": 0.0}))
        selection: Selection[Look] = Selection(rules, empty)
        played = _Played(stream.names)
        committee = Committee(Cascade(self.share, 0.01, seed=seed, compute_share=0.2), _SecondPass(played, self.member))
        judge = Judge(selection, self.strategy, committee if self.committee else None)
        model = _Model(played, "0" * 64, stream.names, stream.operating_point, self.calibration)
        run = Run([], [], 0, {}, {})
        at_s = 0.0
        for look in stream.looks:
            played.look = look
            at = EPOCH + timedelta(seconds=look.at_s)
            at_s = at.timestamp()
            shown = Shown(
                look, np.zeros((0, 0, 3), np.uint8), at, look.hw_px, fingerprint=lambda look=look: look.fingerprint
            )
            judged = judge.judge(shown, model, look.seen)
            if judged.second_failure is not None:
                raise judged.second_failure
            run.second_looks += judged.second_look
            run.take(selection.close(at_s, lambda item: item.size_bytes))
        run.take(selection.close(at_s, lambda item: item.size_bytes, ending=True))
        return run


@dataclass
class Run:
    """What came of it: the picks in order with their scores, the audits among them with their propensities, and how often the second member
    looked.
    """

    picks: list[int]
    audits: list[int]
    second_looks: int
    propensity: dict[int, float]
    scores: dict[int, float]

    def take(self, verdicts: Sequence[Verdict[Look]]) -> None:
        for verdict in verdicts:
            if isinstance(verdict.decision, Keep):
                self.picks.append(verdict.item.index)
                self.scores[verdict.item.index] = verdict.decision.score
                if verdict.decision.audit:
                    self.audits.append(verdict.item.index)
                    self.propensity[verdict.item.index] = verdict.decision.reasons[0].propensity
