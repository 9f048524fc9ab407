"""The learning worker: takes queued jobs one at a time, in order. No job ends it, and none is lost by its end."""

from __future__ import annotations

import errno
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import sqlalchemy as sa
import structlog

from edgecase_cloud import bundles, dataset_files, datasets, durable, retrain
from edgecase_cloud.bundles import ModelError
from edgecase_cloud.catalogue import Catalogue, Event, Job, JobState
from edgecase_cloud.dataset_files import DatasetError
from edgecase_cloud.datasets import Pictures
from edgecase_cloud.durable import Busy
from edgecase_cloud.gate import GateError
from edgecase_cloud.release import ReleaseError, Repository
from edgecase_cloud.retrain import RequestError, Retraining, Stopped
from edgecase_cloud.store import StoreError
from edgecase_cloud.training import TrainingFailed

RETRAIN: Final = "retrain"
MAX_ATTEMPTS: Final = 2
REFRESH_EVERY_S: Final = 600.0
_TELL_EVERY_S: Final = 0.5

_EXPECTED: Final = (DatasetError, GateError, ModelError, ReleaseError, RequestError, StoreError, TrainingFailed)

log = structlog.get_logger()


class HasData(Protocol):
    """Settings, as far as learning needs them."""

    @property
    def data(self) -> Path: ...


class LearnServices(Protocol):
    """What learning needs of the cloud's services."""

    @property
    def settings(self) -> HasData: ...

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def store(self) -> Pictures: ...


def submit(catalogue: Catalogue, request: dict[str, Any]) -> Job:
    """Queue a retraining; `RequestError` where it could not be followed."""
    retrain.parse(request)
    with catalogue.session.begin() as session:
        job = Job(
            kind=RETRAIN,
            state=JobState.QUEUED,
            created_at=datetime.now(UTC),
            request=request,
            stage="",
            progress=0.0,
            result={},
            error="",
        )
        session.add(job)
    return job


def cancel(catalogue: Catalogue, job_id: int, reason: str) -> None:
    """Fail a job that waits; one that runs or is over stays as it is."""
    with catalogue.session.begin() as session:
        session.execute(
            sa.update(Job)
            .where(Job.id == job_id, Job.state == JobState.QUEUED)
            .values(state=JobState.FAILED, error=reason, finished_at=datetime.now(UTC))
        )


def run(services: LearnServices, stop: threading.Event, *, poll_s: float = 0.5) -> None:
    """Work until `stop` is set. One worker per data folder: a second one waits until the first is gone."""
    while not stop.is_set():
        try:
            with durable.exclusive(services.settings.data / "learner.lock", wait=False):
                _work(Learner(services), stop, poll_s)
        except Busy:
            stop.wait(poll_s)


def run_here(services: LearnServices, job_id: int, stop: threading.Event) -> None:
    """Do the queued jobs up to this one in this process; `Busy` where a worker runs already and will do them."""
    with durable.exclusive(services.settings.data / "learner.lock", wait=False):
        learner = Learner(services)
        learner.recover()
        while not stop.is_set():
            done = learner.step(stop)
            if done is None or done.id == job_id:
                return


def _work(learner: Learner, stop: threading.Event, poll_s: float) -> None:
    refreshed_at = float("-inf")
    recovered = False
    while not stop.is_set():
        try:
            if not recovered:
                learner.recover()
                recovered = True
            if time.monotonic() - refreshed_at > REFRESH_EVERY_S:
                refreshed_at = time.monotonic()
                learner.refresh()
            busy = learner.step(stop) is not None
        except Exception:
            log.exception("learning worker goes on after an error")
            busy = False
        if not busy:
            stop.wait(poll_s)


class Learner:
    """Does jobs. The caller holds the lock that makes it the only one on its data folder."""

    def __init__(self, services: LearnServices) -> None:
        self._data = services.settings.data
        self._catalogue = services.catalogue
        self._store = services.store

    def recover(self) -> None:
        """Put right what an earlier worker's death left: jobs, half-written datasets, a release that was not recorded.

        A job that was running goes back into the queue once; the second time it is failed, since it may be the cause.
        """
        with self._catalogue.session.begin() as session:
            for job in session.scalars(sa.select(Job).where(Job.state == JobState.RUNNING)):
                again = int(job.result.get("attempts", 1)) < MAX_ATTEMPTS
                log.warning("job was interrupted", job=job.id, stage=job.stage, again=again)
                if again:
                    job.state, job.progress = JobState.QUEUED, 0.0
                else:
                    job.state, job.finished_at = JobState.FAILED, datetime.now(UTC)
                    job.error = (
                        f"the learning worker died twice, last in stage {job.stage or 'dataset'} (too little memory?); look into "
                        f"logs/learn.log and runs/{job.id}/train.log, then submit it again"
                    )
        dataset_files.sweep(datasets.root(self._data))
        try:
            found = bundles.reconcile(self._data, self._catalogue)
        except ReleaseError as error:
            log.warning("releases cannot be looked at", error=str(error))
            return
        if found is not None:
            log.info("release recorded", digest=found.digest, release=found.release)

    def refresh(self) -> None:
        """Sign release metadata anew before it expires."""
        try:
            repository = Repository(self._data)
            repository.ensure()
            done = repository.refresh()
        except (ReleaseError, OSError) as error:
            log.warning("release metadata cannot be renewed; devices refuse it once it has expired", error=str(error))
            return
        if done.renewed:
            log.info("release metadata renewed", roles=done.renewed)
        for role, expires in done.keyless.items():
            log.warning("release metadata expires and its keys are not here", role=role, expires=expires.isoformat())

    def step(self, stop: threading.Event) -> Job | None:
        """Do the oldest queued job; None where there is none. The job's row tells how it went."""
        job = self._claim()
        if job is None:
            return None
        log.info("job begins", job=job.id, kind=job.kind)
        desk = JobDesk(self._catalogue, job.id, dict(job.result))
        try:
            self._do(job, desk, stop)
            desk.end(JobState.DONE)
        except Stopped:
            desk.put_back()
        except _EXPECTED as error:
            desk.end(JobState.FAILED, _first_line(str(error)))
            log.warning("job failed", job=job.id, error=str(error))
        except OSError as error:
            desk.end(JobState.FAILED, _os_error(error, self._data))
            log.warning("job failed", job=job.id, error=str(error))
        except Exception as error:
            log.exception("job failed unexpectedly", job=job.id)
            desk.end(
                JobState.FAILED, f"unexpected {type(error).__name__}: {_first_line(str(error))}; see logs/learn.log"
            )
        with self._catalogue.session() as session:
            ended = session.get_one(Job, job.id)
        log.info("job ended", job=ended.id, state=str(ended.state), release=ended.result.get("release"))
        return ended

    def _claim(self) -> Job | None:
        with self._catalogue.session.begin() as session:
            job = session.scalar(sa.select(Job).where(Job.state == JobState.QUEUED).order_by(Job.id).limit(1))
            if job is not None:
                job.state, job.started_at, job.finished_at = JobState.RUNNING, datetime.now(UTC), None
                job.stage, job.progress, job.error = "", 0.0, ""
                job.result = {"attempts": int(job.result.get("attempts", 0)) + 1}
        return job

    def _do(self, job: Job, desk: JobDesk, stop: threading.Event) -> None:
        if job.kind != RETRAIN:
            raise RequestError(f"jobs of kind {job.kind!r} are not known here; known is {RETRAIN!r}")
        assert job.started_at is not None
        Retraining(
            data=self._data,
            catalogue=self._catalogue,
            pictures=self._store,
            request=retrain.parse(job.request),
            name=str(job.id),
            at=job.started_at,
            desk=desk,
            stop=stop,
        ).run()


class JobDesk:
    """Writes a job's progress into its row: stages and facts at once, progress twice a second."""

    def __init__(self, catalogue: Catalogue, job_id: int, result: dict[str, Any]) -> None:
        self._catalogue = catalogue
        self._job_id = job_id
        self._result = result
        self._told_at = float("-inf")

    def stage(self, name: str) -> None:
        """The job enters a stage."""
        self._write(stage=name, progress=0.0)

    def progress(self, share: float) -> None:
        """How far the stage is, 0 to 1."""
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            self._write(progress=min(1.0, max(0.0, share)))

    def note(self, **facts: Any) -> None:
        """Add to the job's result."""
        self._result |= facts
        self._write(result=dict(self._result))

    def end(self, state: JobState, error: str = "") -> None:
        """The job is over."""
        now = datetime.now(UTC)
        done = {"progress": 1.0} if state is JobState.DONE else {}
        self._write(state=state, finished_at=now, error=error, **done)
        with self._catalogue.session.begin() as session:
            detail = {"state": str(state)} | ({"error": error} if error else {})
            session.add(Event(at=now, kind="job", subject=str(self._job_id), detail=detail))

    def put_back(self) -> None:
        """The worker ends; the job waits for the next one, and this attempt does not count."""
        self._write(state=JobState.QUEUED, stage="", progress=0.0, started_at=None, result={})

    def _write(self, **values: Any) -> None:
        with self._catalogue.session.begin() as session:
            session.execute(sa.update(Job).where(Job.id == self._job_id).values(**values))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:500] if text.strip() else "no reason was given"


def _os_error(error: OSError, data: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk that holds {data} is full; free some space and submit the job again"
    return f"{error.filename or data}: {error.strerror or error}"
