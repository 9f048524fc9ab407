"""The learning worker over a real catalogue, store, training and signed repository: what it does, and what it survives."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tuf.api.metadata import Timestamp

from edgecase_cloud import bundles, datasets, learner, retrain, training
from edgecase_cloud.catalogue import Bundle, Event, Job, JobState
from edgecase_cloud.datasets import Kind
from edgecase_cloud.learner import Learner
from edgecase_cloud.release import Repository
from edgecase_cloud.retrain import RequestError, parse
from edgecase_cloud.services import Services
from edgecase_models.evaluate import samples_from_folder
from support import shapes
from support.learning import Starter, teach
from support.wait import until

needs_training = pytest.mark.skipif(bool(training.missing_extra()), reason="the [train] extra is not installed")

FAST = {"epochs": 12, "lr0": 0.005, "replay": 60, "keep": 0, "threads": 1, "val_share": 0.2, "block_s": 20, "gap_s": 0}
NEVER = threading.Event()


def job_of(parts: Services, job_id: int) -> Job:
    with parts.catalogue.session() as session:
        return session.get_one(Job, job_id)


def done(parts: Services, request: dict[str, Any] | None = None) -> Job:
    """Submit a retraining and do it here."""
    job = learner.submit(parts.catalogue, FAST | (request or {}))
    result = Learner(parts).step(NEVER)
    assert result is not None
    assert result.id == job.id
    return result


@needs_training
@pytest.mark.timeout(400)
def test_labels_become_a_better_released_model(parts: Services, starter: Starter, tmp_path: Path) -> None:
    """The circle's cloud half, all of it real: what was labelled in the dark makes a model that sees in the dark."""
    data = parts.settings.data
    teach(parts, starter, tmp_path)
    job = learner.submit(parts.catalogue, FAST | {"gate": {"max_drop_condition": 0.1, "max_drop_class": 0.1}})
    seen: set[tuple[str, str]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            row = job_of(parts, job.id)
            seen.add((row.state, row.stage))

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = Learner(parts).step(NEVER)
    ended.set()
    watcher.join()
    assert result is not None
    assert (result.state, result.error) == (JobState.DONE, "")
    assert {("running", stage) for stage in ("dataset", "train", "gate")} <= seen
    facts = result.result
    assert facts["passed"] is True, facts["gate"]["reasons"]
    assert facts["released"] is True
    assert facts["release"] == 2
    gate = facts["gate"]
    before, after = (gate[side]["per_condition"]["dark"]["map50_95"] for side in ("incumbent", "candidate"))
    assert after > before + 0.1
    assert gate["aside"][0]["name"] == "held-out labels"
    assert (facts["learnt_pictures"] + facts["held_out_pictures"], facts["replayed_pictures"]) == (40, 60)
    assert [epoch["epoch"] for epoch in facts["epochs"]] == list(range(1, 13))
    with parts.catalogue.session() as session:
        released = bundles.incumbent(session)
    assert released is not None
    assert released.digest == facts["candidate_digest"]
    assert (released.release, released.parent_digest, released.dataset_id) == (
        2,
        starter.bundle.digest,
        facts["dataset_id"],
    )
    assert released.gate == gate
    told = Repository(data).channel()
    assert told is not None
    assert (told.digest, told.release) == (released.digest, 2)
    package = bundles.opened(data, released.digest)
    assert package.manifest.lineage.parent_digest == starter.bundle.digest
    assert package.manifest.lineage.run == str(job.id)
    assert package.manifest.input == starter.bundle.manifest.input
    assert bundles.weights_path(data, released.digest) is not None
    for row in datasets.listed(parts.catalogue):
        datasets.opened(data, row)


@pytest.mark.slow
@needs_training
@pytest.mark.timeout(400)
def test_a_stop_ends_the_training_and_puts_the_job_back(parts: Services, starter: Starter, tmp_path: Path) -> None:
    teach(parts, starter, tmp_path, labels=6)
    job = learner.submit(parts.catalogue, FAST | {"epochs": 5000})
    stop = threading.Event()
    worker = threading.Thread(target=learner.run, args=(parts, stop))
    worker.start()
    until(lambda: job_of(parts, job.id).result.get("epochs"), within_s=60, what="the first epoch")
    stop.set()
    worker.join(20)
    assert not worker.is_alive()
    row = job_of(parts, job.id)
    assert (row.state, row.stage, row.progress, row.result) == (JobState.QUEUED, "", 0.0, {})


# What stands in the way is told in one line, before any time is spent on training


@dataclass(frozen=True)
class Obstacle:
    """Something that is not as it must be, and the words that tell it."""

    make: Callable[[Services, Path], None]
    says: str


def remove_base_picture(parts: Services, _: Path) -> None:
    (base,) = datasets.listed(parts.catalogue, Kind.BASE)
    next((parts.settings.data / base.path / "images/train").iterdir()).unlink()


def lose_bundle(parts: Services, _: Path) -> None:
    for path in (parts.settings.data / "bundles").glob("*.tar"):
        path.write_bytes(b"altered")


def lose_weights(parts: Services, _: Path) -> None:
    for path in (parts.settings.data / "bundles").glob("*.pt"):
        path.unlink()


@needs_training
@pytest.mark.parametrize(
    "obstacle",
    [
        Obstacle(remove_base_picture, "was altered or is missing; restore its folder"),
        Obstacle(lose_bundle, "not a readable bundle"),
        Obstacle(lose_weights, "was imported without weights; give starter_weights"),
    ],
    ids=lambda obstacle: obstacle.make.__name__,
)
def test_what_was_altered_or_lost_fails_the_job_by_name(
    parts: Services, starter: Starter, tmp_path: Path, obstacle: Obstacle
) -> None:
    teach(parts, starter, tmp_path, labels=4)
    obstacle.make(parts, tmp_path)
    job = done(parts)
    assert job.state == JobState.FAILED
    assert job.stage == "dataset"
    assert obstacle.says in job.error
    assert "\n" not in job.error


@needs_training
def test_without_model_golden_set_or_labels_the_job_says_what_to_run(
    parts: Services, starter: Starter, tmp_path: Path
) -> None:
    data, catalogue = parts.settings.data, parts.catalogue
    assert "run: edgecase-cloud model import --bundle BUNDLE.tar --weights WEIGHTS.pt" in done(parts).error
    bundles.register(data, catalogue, starter.bundle.path, starter.trained.weights)
    assert "run: edgecase-cloud dataset import DIR --name golden --kind golden" in done(parts).error
    golden = shapes.folder(tmp_path / "golden", 4)
    datasets.import_folder(data, catalogue, golden, name="golden", kind=Kind.GOLDEN)
    assert "no frame has an answer yet; accept or correct frames on the review page first" in done(parts).error
    job = done(parts, {"starter_weights": "a" * 64})
    assert (
        job.error
        == "no weights aaaaaaaaaaaa (starter_weights) are here; run: edgecase-cloud train --starter-weights FILE"
    )


@needs_training
def test_a_store_that_is_away_or_full_fails_the_job_and_the_worker_goes_on(
    parts: Services, starter: Starter, tmp_path: Path
) -> None:
    class Full:
        def get(self, key: str) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device", key)

    teach(parts, starter, tmp_path, labels=2)
    full = Services(parts.settings, parts.catalogue, Full())  # type: ignore[arg-type]
    assert "is full; free some space and submit the job again" in done(full).error
    away = Services(parts.settings, parts.catalogue, type(parts.store)("http://127.0.0.1:9", "a", "b", attempts=1))
    assert "the store did not answer" in done(away).error


# The worker


def test_jobs_are_done_in_order_and_a_failed_one_ends_nothing(parts: Services) -> None:
    jobs = [learner.submit(parts.catalogue, FAST) for _ in range(3)]
    stop = threading.Event()
    worker = threading.Thread(target=learner.run, args=(parts, stop), kwargs={"poll_s": 0.02})
    worker.start()
    until(lambda: job_of(parts, jobs[-1].id).state == JobState.FAILED, what="the last job")
    assert worker.is_alive()
    stop.set()
    worker.join(10)
    rows = [job_of(parts, job.id) for job in jobs]
    assert all(row.finished_at and row.error for row in rows)
    began = [row.started_at for row in rows]
    assert began == sorted(began, key=lambda at: at or datetime.max)
    with parts.catalogue.session() as session:
        told = session.scalars(sa.select(Event.subject).where(Event.kind == "job").order_by(Event.id)).all()
    assert told == [str(job.id) for job in jobs]


def test_a_second_worker_waits_for_the_first(parts: Services) -> None:
    stops = [threading.Event(), threading.Event()]
    workers = [threading.Thread(target=learner.run, args=(parts, stop), kwargs={"poll_s": 0.02}) for stop in stops]
    workers[0].start()
    first = learner.submit(parts.catalogue, FAST)
    until(lambda: job_of(parts, first.id).state == JobState.FAILED, what="the first worker")
    workers[1].start()
    stops[0].set()
    workers[0].join(10)
    second = learner.submit(parts.catalogue, FAST)
    until(lambda: job_of(parts, second.id).state == JobState.FAILED, what="the second worker")
    stops[1].set()
    workers[1].join(10)
    assert not any(worker.is_alive() for worker in workers)


def test_an_interrupted_job_is_tried_once_more_and_then_failed(parts: Services) -> None:
    job = learner.submit(parts.catalogue, FAST)

    def interrupted() -> Job:
        """The worker takes the job and is gone."""
        taken = Learner(parts)._claim()
        assert taken is not None
        Learner(parts).recover()
        return job_of(parts, job.id)

    assert interrupted().state == JobState.QUEUED
    row = interrupted()
    assert row.state == JobState.FAILED
    assert "the learning worker died twice" in row.error


def test_a_job_of_an_unknown_kind_fails_by_name(parts: Services) -> None:
    with parts.catalogue.session.begin() as session:
        session.add(Job(kind="dream", state=JobState.QUEUED, created_at=datetime.now(UTC), request={}))
    row = Learner(parts).step(NEVER)
    assert row is not None
    assert row.error == "jobs of kind 'dream' are not known here; known is 'retrain'"


def test_no_job_is_no_work(parts: Services) -> None:
    assert Learner(parts).step(NEVER) is None


def test_a_worker_renews_release_metadata_before_it_takes_a_job(parts: Services) -> None:
    repository = Repository(parts.settings.data)
    repository.ensure(datetime.now(UTC) - timedelta(days=3))
    assert repository._load(Timestamp.type, Timestamp).signed.expires < datetime.now(UTC)
    Learner(parts).refresh()
    assert repository._load(Timestamp.type, Timestamp).signed.expires > datetime.now(UTC)


def test_a_release_that_a_crash_cut_off_is_recorded_at_the_next_start(parts: Services, starter: Starter) -> None:
    data, catalogue = parts.settings.data, parts.catalogue
    row = bundles.add(data, catalogue, starter.bundle.path)
    repository = Repository(data)
    repository.ensure()
    repository.publish(starter.bundle.path, name=row.name, version=row.version, release=1)
    Learner(parts).recover()
    with catalogue.session() as session:
        assert session.get_one(Bundle, row.digest).release == 1


# Requests


def test_a_request_is_options_recipe_and_rules_in_one_object() -> None:
    request = parse({"epochs": 3, "lr0": 0.1, "replay": 7, "release": False, "gate": {"min_gain": 0.1}, "val_share": 0})
    assert (request.recipe.epochs, request.recipe.lr0, request.options.replay) == (3, 0.1, 7)
    assert (request.options.release, request.rules.min_gain, request.split.val_share) == (False, 0.1, 0)
    assert parse({}) == parse({"gate": {}})


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"epoch": 3}, "unknown key 'epoch' in the request; did you mean 'epochs'?"),
        ({"zzz": 3}, "unknown key 'zzz' in the request; known are batch, "),
        ({"gate": {"min_gian": 1}}, "unknown key 'min_gian' in the request; did you mean 'min_gain'?"),
        ({"gate": 3}, "key 'gate' of the request must be an object of rules"),
        ({"epochs": 0}, "Expected `int` >= 1"),
        ({"epochs": "many"}, r"Expected `int`, got `str` - at `$.epochs`"),
        ({"optimizer": "magic"}, "Invalid enum value 'magic'"),
        ({"val_share": 1}, "val_share in [0, 1)"),
    ],
)
def test_a_request_that_cannot_be_followed_names_the_key(request_: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(request_)
    assert says in str(refused.value)


# Bundles


def test_the_first_model_becomes_release_1_and_a_later_one_a_candidate(
    parts: Services, starter: Starter, tmp_path: Path
) -> None:
    data, catalogue = parts.settings.data, parts.catalogue
    first = bundles.register(data, catalogue, starter.bundle.path, starter.trained.weights)
    assert first.release == 1
    assert bundles.register(data, catalogue, starter.bundle.path, starter.trained.weights).release == 1
    golden = retrain.golden_pictures([datasets.opened(data, imported(parts, tmp_path))])
    from edgecase_models.bundle import pack

    other = pack(starter.trained.onnx, tmp_path / "other.tar", name="shapes", version="other", golden_pictures=golden)
    second = bundles.register(data, catalogue, other.path)
    assert second.release is None
    with catalogue.session() as session:
        assert bundles.incumbent(session).digest == first.digest  # type: ignore[union-attr]
        assert datasets.class_names(session) == ("red", "green")
        assert bundles.next_release_number(session) == 2
    assert bundles.publish(data, catalogue, second.digest).release == 2
    assert bundles.publish(data, catalogue, second.digest).release == 2
    with pytest.raises(bundles.ModelError, match="was release 1, and release 2 came after it"):
        bundles.publish(data, catalogue, first.digest)
    assert {each.digest for each in bundles.listed(catalogue)} == {first.digest, second.digest}
    assert bundles.find(catalogue, "other").digest == second.digest
    assert bundles.find(catalogue, first.digest[:10]).digest == first.digest


def imported(parts: Services, tmp_path: Path) -> Any:
    folder = shapes.folder(tmp_path / "pictures", 6, dark_every=2)
    assert len(samples_from_folder(folder, "train")) == 6
    return datasets.import_folder(parts.settings.data, parts.catalogue, folder, name="golden", kind=Kind.GOLDEN).dataset


def test_a_broken_bundle_is_not_taken_in(parts: Services, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"not a bundle")
    with pytest.raises(bundles.ModelError, match="not a readable bundle"):
        bundles.register(parts.settings.data, parts.catalogue, broken)
    with pytest.raises(bundles.ModelError, match="no such bundle; pack one with `edgecase-model pack`"):
        bundles.register(parts.settings.data, parts.catalogue, tmp_path / "gone.tar")
    assert bundles.listed(parts.catalogue) == []
