"""The label queue's order: the batch to label in front, chosen anew when frames have come or answers were given."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from edgecase_cloud import durable
from edgecase_cloud.batch import Batch, BatchRules, choose
from edgecase_cloud.catalogue import FRONT, LAST, LATER, Annotation, Catalogue, Dataset, Frame, Look, Review, Standing
from edgecase_cloud.decoder_process import Seen
from edgecase_cloud.decoding import decoder
from edgecase_cloud.durable import Busy
from edgecase_cloud.pool import AUDIT, Answered, Candidate, Quota
from edgecase_cloud.reviewable import ARRIVED, class_names
from edgecase_models import wire
from edgecase_models.fingerprint import Fingerprint

MAX_OPEN: Final = 20_000
MAX_AUDITS: Final = 5_000
MAX_ANSWERED: Final = 2_000
LOOKS_AT_ONCE: Final = 200
_ROWS_AT_ONCE: Final = 200  # of frames: written while devices wait for their acks

log = structlog.get_logger()


class HasRules(Protocol):
    """Settings, as far as the queue needs them."""

    @property
    def data(self) -> Path: ...

    def batch_rules(self) -> BatchRules: ...


class QueueServices(Protocol):
    """What the queue needs of the cloud's services."""

    @property
    def settings(self) -> HasRules: ...

    @property
    def catalogue(self) -> Catalogue: ...


def run(services: QueueServices, stop: threading.Event, *, poll_s: float = 0.5) -> None:
    """Keep the queue in order until `stop` is set. One keeper per data folder: a second one waits until the first is gone."""
    while not stop.is_set():
        try:
            with durable.exclusive(services.settings.data / "queue.lock", wait=False):
                _keep(Keeper(services), stop, poll_s)
        except Busy:
            stop.wait(poll_s)


def _keep(keeper: Keeper, stop: threading.Event, poll_s: float) -> None:
    while not stop.is_set():
        try:
            keeper.step(time.monotonic())
        except Exception:
            log.exception("the queue's keeper goes on after an error")
        stop.wait(poll_s)


class Debounce:
    """When to act on what changes: once it was quiet for `quiet_s`, at the latest after `patience_s`, and a tenth of the time at most."""

    def __init__(self, quiet_s: float = 1.0, patience_s: float = 5.0) -> None:
        self._quiet_s = quiet_s
        self._patience_s = patience_s
        self._acted_on: object = None
        self._seen: object = None
        self._changed_s = self._first_s = self._rested_s = float("-inf")

    def due(self, seen: object, now_s: float) -> bool:
        """Whether to act on `seen` now."""
        if seen == self._acted_on:
            self._seen = seen
            return False
        if seen != self._seen:
            if self._seen == self._acted_on:
                self._first_s = now_s
            self._seen, self._changed_s = seen, now_s
        waited = now_s - self._changed_s >= self._quiet_s or now_s - self._first_s >= self._patience_s
        return waited and now_s >= self._rested_s

    def acted(self, seen: object, now_s: float, took_s: float) -> None:
        """It was acted on what was seen."""
        self._acted_on = self._seen = seen
        self._rested_s = now_s + 9 * took_s


class Keeper:
    """Chooses the batch anew in the background. The caller holds the lock that makes it the only one on its data folder."""

    def __init__(self, services: QueueServices, debounce: Debounce | None = None) -> None:
        self._catalogue = services.catalogue
        self._rules = services.settings.batch_rules()
        self._debounce = debounce or Debounce()
        self._looked_at_all = False

    def step(self, now_s: float) -> Batch | None:
        """One look at the catalogue; the batch, where it was time for one."""
        if not self._looked_at_all:
            self._looked_at_all = look_at_frames(self._catalogue) == 0  # then ingest sees to it
            if not self._looked_at_all:
                return None
        seen = self._seen()
        if not self._debounce.due(seen, now_s):
            return None
        began_s = time.monotonic()
        batch = reorder(self._catalogue, self._rules, wire.now())
        took_s = time.monotonic() - began_s
        self._debounce.acted(seen, now_s + took_s, took_s)
        log.info(
            "batch chosen",
            picks=len(batch.picks),
            repeats=len(batch.repeats),
            waiting=batch.waiting,
            labels=batch.labels,
            took_s=round(took_s, 3),
        )
        return batch

    def _seen(self) -> object:
        """Changes with every frame that arrives, every answer and every dataset."""
        with self._catalogue.session() as session:
            arrived = session.scalar(sa.select(sa.func.count()).select_from(Frame).where(ARRIVED))
            answered = session.scalar(sa.select(sa.func.max(Annotation.id)))
            datasets = session.scalar(sa.select(sa.func.count()).select_from(Dataset))
        return arrived, answered, datasets


def reorder(catalogue: Catalogue, rules: BatchRules, now: datetime) -> Batch:
    """Choose the batch of everything that waits, and put the queue into its order.

    Looked at are the `MAX_OPEN` frames that stand first, by their present place and then by score, audits up to `MAX_AUDITS` wherever they
    stand, and the latest `MAX_ANSWERED` answers.
    """
    with catalogue.session() as session:
        waiting = _waiting(session)
        answered = _answered(session)
        labels = _labels(session)
        names = class_names(session)
        standings = {row.frame_id: row for row in session.scalars(_standings_of_open())}
    batch = choose([each for each, _ in waiting], answered, labels=labels, rules=rules, now=now, names=names)
    places = {each.id: place for each, place in waiting}
    _write(catalogue, batch, places, standings)
    return batch


def as_json(batch: Batch) -> dict[str, Any]:
    """The batch for a script; a distance of null: nothing was picked or answered before."""
    return {
        "at": batch.at.isoformat(),
        "waiting": batch.waiting,
        "labels": batch.labels,
        "cold": batch.cold,
        "minorities": list(batch.minorities),
        "cost_s": batch.cost_s,
        "picks": [asdict(pick) for pick in batch.picks],
        "repeats": [asdict(repeat) | {"reason": repeat.reason} for repeat in batch.repeats],
    }


def look_at_frames(catalogue: Catalogue, at_most: int = LOOKS_AT_ONCE) -> int:
    """Work out the look of frames that came before looks were kept; how many. New ones have theirs from ingest."""
    with catalogue.session() as session:
        unseen = (
            sa.select(Frame.id, Frame.thumbnail_jpeg)
            .where(ARRIVED, ~sa.exists().where(Look.frame_id == Frame.id))
            .limit(at_most)
        )
        rows = session.execute(unseen).all()
    looks = {row.id: look_of(row.id, decoder().thumbnail(row.thumbnail_jpeg)) for row in rows}
    if looks:
        with catalogue.writing.begin() as session:
            meanwhile = set(session.scalars(sa.select(Look.frame_id).where(Look.frame_id.in_(looks))))
            session.add_all(look for frame_id, look in looks.items() if frame_id not in meanwhile)
    return len(looks)


def look_of(frame_id: str, seen: Seen, features: wire.Features | None = None) -> Look:
    """The row that says what a frame looks like, of what its decoded thumbnail showed."""
    return Look(
        frame_id=frame_id,
        fingerprint=seen.fingerprint,
        problem=seen.problem,
        features=b"" if features is None else features.codes,
        features_scale=0.0 if features is None else features.scale,
    )


# What is read


_COLUMNS: Final = (
    Frame.id,
    Frame.device_id,
    Frame.camera,
    Frame.taken_at,
    Frame.score,
    Frame.reasons,
    Frame.boxes,
    Frame.model_digest,
    Look.fingerprint,
    Look.features,
    Look.features_scale,
)


def _waiting(session: Session) -> list[tuple[Candidate, int]]:
    """Open frames whose picture is here, each with its place."""
    waits = (
        sa.select(*_COLUMNS, Frame.place)
        .select_from(Frame)
        .join(Look, Look.frame_id == Frame.id, isouter=True)
        .where(ARRIVED, Frame.review == Review.OPEN, sa.func.coalesce(Frame.problem, "") == "")
    )
    first = waits.order_by(Frame.place.desc(), Frame.score.desc()).limit(MAX_OPEN)
    found = [(_candidate(row), row.place) for row in session.execute(first)]
    if len(found) == MAX_OPEN:
        known = {each.id for each, _ in found}
        audits = (
            waits.where(sa.cast(Frame.reasons, sa.String).like(f'%"{AUDIT}"%')).order_by(Frame.id).limit(MAX_AUDITS)
        )
        found += [(_candidate(row), row.place) for row in session.execute(audits) if row.id not in known]
    return found


def _answered(session: Session) -> list[Answered]:
    """The latest answers, the newest last; a frame that was rejected teaches nothing, but need not be looked at twice."""
    latest = (
        sa.select(*_COLUMNS, Annotation.boxes.label("answer"), Standing.quota)
        .select_from(Frame)
        .join(Annotation, sa.and_(Annotation.frame_id == Frame.id, Annotation.revision == Frame.revision))
        .join(Look, Look.frame_id == Frame.id, isouter=True)
        .join(Standing, Standing.frame_id == Frame.id, isouter=True)
        .order_by(Annotation.id.desc())
        .limit(MAX_ANSWERED)
    )
    rows = session.execute(latest).all()[::-1]
    return [
        Answered(
            _candidate(row), Counter(int(box["cls"]) for box in row.answer), Quota(row.quota) if row.quota else None
        )
        for row in rows
    ]


def _labels(session: Session) -> int:
    """Labelled pictures that the models have learnt from, or will: what devices brought in, and the datasets that they began with."""
    labelled = (
        sa.select(sa.func.count())
        .select_from(Frame)
        .where(ARRIVED, Frame.review.in_((Review.ACCEPTED, Review.CORRECTED)))
    )
    base = sa.select(sa.func.coalesce(sa.func.sum(Dataset.pictures), 0)).where(Dataset.kind == "base")
    return int(session.scalar(labelled) or 0) + int(session.scalar(base) or 0)


def _candidate(row: Any) -> Candidate:
    features = np.frombuffer(row.features, np.int8) * np.float32(row.features_scale) if row.features else None
    return Candidate(
        id=row.id,
        device=row.device_id,
        camera=row.camera,
        taken_at=row.taken_at,
        score=row.score,
        strategies=tuple(reason["strategy"] for reason in row.reasons),
        classes=np.array([box[0] for box in row.boxes], np.int64),
        scores=np.array([box[1] for box in row.boxes], np.float64),
        model_digest=row.model_digest,
        fingerprint=Fingerprint.from_bytes(row.fingerprint) if row.fingerprint else None,
        features=features,
    )


def _standings_of_open() -> sa.Select[Standing]:
    return sa.select(Standing).join(Frame).where(ARRIVED, Frame.review == Review.OPEN)


# What is written


def _write(catalogue: Catalogue, batch: Batch, places: Mapping[str, int], standings: Mapping[str, Standing]) -> None:
    """Bring places and standings to what the batch says, the batch first, a few rows at a time.

    `places` and `standings` are those of the open frames that were read; a frame that was answered meanwhile keeps its own.
    """
    wanted = _wanted(batch)
    target = dict.fromkeys(places, LATER) | {repeat.id: LAST for repeat in batch.repeats}
    with catalogue.session() as session:
        target |= numbered([pick.id for pick in batch.picks], places, _last_answered(session))
    order = [pick.id for pick in batch.picks] + [repeat.id for repeat in batch.repeats]
    listed = set(order)
    order += [frame for frame in {**standings, **places} if frame not in listed]
    changed = [
        frame
        for frame in order
        if target.get(frame, LATER) != places.get(frame, LATER) or wanted.get(frame) != _columns(standings.get(frame))
    ]
    for start in range(0, len(changed), _ROWS_AT_ONCE):
        piece = changed[start : start + _ROWS_AT_ONCE]
        with catalogue.writing.begin() as session:
            still = set(session.scalars(sa.select(Frame.id).where(Frame.id.in_(piece), Frame.review == Review.OPEN)))
            moved = [
                {"id": each, "place": target[each]}
                for each in piece
                if each in still and target.get(each) != places.get(each)
            ]
            if moved:
                session.execute(sa.update(Frame), moved)
            session.execute(sa.delete(Standing).where(Standing.frame_id.in_(still)))
            session.add_all(
                Standing(frame_id=each, **wanted[each]) for each in piece if each in still and each in wanted
            )


def numbered(order: Sequence[str], places: Mapping[str, int], last_answered: int) -> dict[str, int]:
    """Places for frames in this order, each keeping its own wherever the order allows.

    So a reviewer who works down the queue is neither led past a frame nor shown one again that was skipped. One that has to move, or is new
    to the batch, stands behind `last_answered`: who has just answered that goes on with it.
    """
    found: dict[str, int] = {}
    ahead = FRONT + 1
    for frame in order:
        own = places.get(frame, LATER)
        ahead = own if LATER < own < ahead else min(ahead, last_answered) - 1
        found[frame] = ahead
    return found


def _last_answered(session: Session) -> int:
    answered = [state for state in Review if state is not Review.OPEN]
    last = sa.select(sa.func.min(Frame.place)).where(ARRIVED, Frame.review.in_(answered), Frame.place > LATER)
    return session.scalar(last) or FRONT + 1


def _wanted(batch: Batch) -> dict[str, dict[str, Any]]:
    """The standings that the batch gives, as columns by frame id."""
    found: dict[str, dict[str, Any]] = {
        repeat.id: {**_NOTHING, "rank": 0, "reason": repeat.reason, "repeats": repeat.of} for repeat in batch.repeats
    }
    for pick in batch.picks:
        columns = asdict(pick)
        del columns["id"]
        found[pick.id] = {**_NOTHING, **columns, "quota": pick.quota.value}
    return found


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "value": 0.0,
        "score": 0.0,
        "distance": None,
        "typicality": 0.0,
        "cost_s": 0.0,
        "quota": "",
        "propensity": 1.0,
        "repeats": None,
    }
)


def _columns(row: Standing | None) -> dict[str, Any] | None:
    return None if row is None else {name: getattr(row, name) for name in (*_NOTHING, "rank", "reason")}
