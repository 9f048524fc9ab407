"""What the watch loop says of itself: `state/watch.json`, written every other second and gone on from after a restart."""

from __future__ import annotations

import math
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from edgecase_agent import durable
from edgecase_agent.budget import BudgetState, PurseState, SpentTogether
from edgecase_agent.rules import Rules
from edgecase_agent.selection import SelectionState
from edgecase_agent.telemetry import TelemetryCounts
from edgecase_models import wire
from edgecase_models.policy import PERIODS_S

log = structlog.get_logger()

STATUS_FILE: Final = "watch.json"
SELECTION_FILE: Final = "selection.json"
_HORIZON: Final = 256


class StageMeans(msgspec.Struct):
    """Means in ms a frame, over the last 256 frames or so; `wait` is for the decoder or the camera, `second` for the committee."""

    wait: float = 0.0
    pre: float = 0.0
    run: float = 0.0
    post: float = 0.0
    score: float = 0.0
    second: float = 0.0
    select: float = 0.0
    encode: float = 0.0
    redact: float = 0.0
    spool: float = 0.0


class Stages:
    """Running means of the stages: exact over the first frames, exponential from then on."""

    def __init__(self) -> None:
        self.frames = 0
        self._means = dict.fromkeys(StageMeans.__struct_fields__, 0.0)

    def add(self, **took_ms: float) -> None:
        """One frame's stages; those that are left out took no time."""
        self.frames += 1
        weight = 1 / min(self.frames, _HORIZON)
        for name, mean in self._means.items():
            self._means[name] = mean + weight * (took_ms.get(name, 0.0) - mean)

    def means(self) -> StageMeans:
        """Rounded to a microsecond."""
        return StageMeans(**{name: round(mean, 3) for name, mean in self._means.items()})


class WatchStatus(msgspec.Struct, kw_only=True):
    """What the loop did in the life of its data folder, and how it goes now.

    `frames_seen` were looked at, `frames_skipped` came while the model was busy with another, `frames_failed` gave no sound score.
    `jpeg_bytes_seen` estimates what all frames seen would weigh as the JPEGs that would be sent: every n-th is encoded and stands for
    those up to the next. `selected` frames were worth a label, `audited` of them by chance, and `beside` frames went with them;
    `not_spooled` of all these found no room on the disk. `redacted` of them were painted over somewhere, and `withheld` were kept without
    their pixels; `privacy` says what is done, and `privacy_failure` why the last of these could not be searched. `passed` counts why the
    others were let go, since the start.
    `second_looks` were taken and gave an opinion, `second_looks_failed` gave none, so that the first look counts; `without_chance` frames
    could not have got one, not even by chance: estimates from the looks count these as 0. `strategy` ranks the frames now, and
    `strategy_failure` says why that is not the one of the policy. `telemetry` counts how the vehicle's file was since the start, None
    where there is none to read, and `telemetry_problem` is what was last wrong with it.
    """

    at: datetime
    pid: int = 0
    source: str = ""
    source_state: str = ""
    frames_seen: int = 0
    frames_skipped: int = 0
    frames_failed: int = 0
    jpeg_bytes_seen: int = 0
    frames_per_s: float = 0.0
    running_digest: str = ""
    release: int = 0
    swaps: int = 0
    model_failure: str = ""
    strategy: str = ""
    strategy_failure: str = ""
    policy: str = ""
    policy_digest: str = ""
    policy_failure: str = ""
    selected: int = 0
    audited: int = 0
    beside: int = 0
    not_spooled: int = 0
    privacy: str = "off"
    redacted: int = 0
    withheld: int = 0
    privacy_failure: str = ""
    second_looks: int = 0
    second_looks_failed: int = 0
    without_chance: int = 0
    telemetry: TelemetryCounts | None = None
    telemetry_problem: str = ""
    problem: str = ""
    passed: dict[str, int] = {}
    stages_ms: StageMeans = msgspec.field(default_factory=StageMeans)


def go_on_from(state: Path) -> WatchStatus:
    """The status of the last run with its counts, for the next to go on from; a new one where there is none."""
    try:
        last = msgspec.json.decode((state / STATUS_FILE).read_bytes(), type=WatchStatus)
    except (OSError, msgspec.MsgspecError):
        last = WatchStatus(at=wire.now())
    last.at, last.pid = wire.now(), os.getpid()
    last.passed, last.problem, last.model_failure, last.strategy_failure, last.swaps = {}, "", "", "", 0
    last.telemetry, last.telemetry_problem, last.policy_failure = None, "", ""
    last.privacy_failure = ""
    return last


def write_status(state: Path, status: WatchStatus) -> None:
    """Replace `state/watch.json`; raises `OSError` where the disk is full."""
    durable.replace_lazily(state / STATUS_FILE, msgspec.json.format(msgspec.json.encode(status), indent=1))


def read_selection(state: Path, rules: Rules) -> SelectionState | None:
    """What an earlier run left of its budgets; None where there was none.

    A file that cannot be understood does not give the budgets again: a warning, and nothing is saved up, as though all that `rules` allow
    had been spent evenly up to now.
    """
    path = state / SELECTION_FILE
    try:
        content = path.read_bytes()
        try:
            return msgspec.json.decode(content, type=SelectionState)
        except msgspec.ValidationError:
            return _upgraded(msgspec.json.decode(content, type=_Version1))
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("budget state unreadable; nothing is saved up", path=str(path), cause=str(error))
        empty = BudgetState(tokens=0.0, at_s=time.time())
        return SelectionState(purse=PurseState(), quotas=dict.fromkeys({**rules.quotas, **rules.called}, empty))


class _Version1(msgspec.Struct, frozen=True):
    """`selection.json` as it was before the purse: frames in any hour, bytes `sent` in any day."""

    v: Literal[1]
    frames: BudgetState
    sent: BudgetState


def _upgraded(old: _Version1) -> SelectionState:
    spent = [SpentTogether(each.first_s, each.last_s, math.ceil(each.amount), 0, 0.0) for each in old.frames.spent]
    spent += [SpentTogether(each.first_s, each.last_s, 0, math.ceil(each.amount), 0.0) for each in old.sent.spent]
    return SelectionState(purse=PurseState(at_s=old.frames.at_s, spent=dict.fromkeys(PERIODS_S, spent)))


def write_selection(state: Path, selection: SelectionState) -> None:
    """Replace `state/selection.json` durably; raises `OSError` where the disk is full."""
    durable.replace(state / SELECTION_FILE, msgspec.json.encode(selection))
