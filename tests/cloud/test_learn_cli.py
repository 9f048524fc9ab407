"""The commands that teach and release: what they print, the codes they end with, and that they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from edgecase_cloud import here, services, settings, training
from edgecase_cloud.cli import app
from edgecase_cloud.services import Services
from edgecase_models.bundle import sha256_of
from support import shapes
from support.learning import Starter, teach
from support.wait import until

needs_training = pytest.mark.skipif(bool(training.missing_extra()), reason="the [train] extra is not installed")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def told(*arguments: object) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    """The one line of a command that ends with 2."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command sets up logging for its process, which here is that of all tests."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "cloud"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return shapes.folder(tmp_path / "source", 6, dark_every=2)


def test_a_folder_is_imported_listed_and_verified(data: Path, source: Path) -> None:
    built = told("dataset", "import", source, "--data", data, "--name", "street", "--kind", "base")
    assert (built["pictures"], built["created"], built["summary"]["conditions"]) == (6, True, {"dark": 3, "light": 3})
    (listed,) = told("dataset", "list", "--data", data)
    assert listed["id"] == built["id"]
    assert told("dataset", "verify", "street", "--data", data) == [
        {"id": built["id"], "name": "street", "problem": None}
    ]
    again = call("dataset", "import", source, "--data", data, "--name", "street", "--kind", "base")
    assert "it was there already" in again.stdout
    assert "street" in call("dataset", "list", "--data", data).stdout


def test_an_altered_version_ends_with_2_and_names_the_file(data: Path, source: Path) -> None:
    built = told("dataset", "import", source, "--data", data, "--name", "street", "--kind", "base")
    victim = next((data / built["path"] / "images/train").iterdir())
    victim.write_bytes(b"altered")
    assert victim.name in refused("dataset", "verify", "--data", data, "--json")


def test_bad_input_is_one_line_that_says_what_to_do(data: Path, source: Path, tmp_path: Path) -> None:
    common = ("--data", data, "--name", "x", "--kind")
    assert "Ultralytics layout" in refused("dataset", "import", tmp_path, *common, "base")
    assert "neither base nor golden" in refused("dataset", "import", source, *common, "silver")
    assert "no split 'test'" in refused("dataset", "import", source, *common, "base", "--split", "test")
    assert "no dataset is named" in refused("dataset", "verify", "nothing", "--data", data)
    assert "no such bundle" in refused("model", "import", "--bundle", tmp_path / "gone.tar", "--data", data)
    assert "no bundle is 'x'" in refused("release", "x", "--data", data)
    assert "did you mean 'epochs'" in refused("train", "--no-wait", "--set", "epoch=1", "--data", data)
    gone = ("--no-wait", "--starter-weights", tmp_path / "gone.pt")
    assert "gone.pt: no such weights file" in refused("train", *gone, "--data", data)
    assert "must be the SHA-256" in refused("train", "--no-wait", "--set", "starter_weights=/a.pt", "--data", data)
    assert "is not KEY=VALUE" in refused("train", "--no-wait", "--set", "epochs", "--data", data)
    assert "no cloud runs on" in refused("train", "--data", data)
    assert "val_share in [0, 1)" in refused("dataset", "build", "--val-share", "1", "--data", data)


def test_a_command_on_a_folder_without_a_cloud_says_so(data: Path) -> None:
    assert "holds no cloud yet" in refused("dataset", "build", "--data", data)


def test_a_job_can_be_queued_for_a_cloud_that_starts_later(data: Path) -> None:
    job = told("train", "--no-wait", "--set", "gate.min_gain=0.1", "--epochs", "3", "--no-release", "--data", data)
    assert job["state"] == "queued"
    assert job["request"] == {"gate": {"min_gain": 0.1}, "epochs": 3, "release": False}


def taught(data: Path, starter: Starter, tmp_path: Path, labels: int) -> None:
    """A data folder with a store of its own, as a cloud that was stopped leaves it."""
    services.open_services(settings.load(data), create=True)
    from edgecase_cloud.catalogue import Device
    from support.labels import START

    with here.alone(data) as parts:
        with parts.catalogue.session.begin() as session:
            session.add_all(Device(id=f"cam-{n}", added_at=START) for n in (1, 2))
        teach(parts, starter, tmp_path, labels=labels)


@pytest.mark.slow
@needs_training
@pytest.mark.timeout(400)
def test_without_a_running_cloud_labels_are_built_trained_and_judged_and_a_person_may_release(
    data: Path, starter: Starter, tmp_path: Path
) -> None:
    taught(data, starter, tmp_path, labels=12)
    (model,) = told("model", "list", "--data", data)
    assert (model["version"], model["release"]) == ("starter", 1)
    built = told("dataset", "build", "--data", data, "--val-share", "0")
    assert (built["kind"], built["pictures"]) == ("labelled", 12)
    for weights in (data / "bundles").glob("*.pt"):
        weights.unlink()  # so it starts from those that are given
    trained = call(
        "train", "--here", "--starter-weights", starter.trained.weights, "--epochs", "1", "--replay", "8",
        "--set=gate.min_gain=0.9", "--set=threads=1", "--json", "--data", data
    )  # fmt: skip
    assert trained.exit_code == 1, trained.stderr
    job = json.loads(trained.stdout)
    assert job["request"]["starter_weights"] == sha256_of(starter.trained.weights)
    assert (job["state"], job["result"]["passed"], job["result"]["released"]) == ("done", False, False)
    assert job["result"]["why_not"] == "the gate did not pass it"
    candidate, first = told("model", "list", "--data", data)
    assert (candidate["release"], candidate["gate"]["passed"], first["release"]) == (None, False, 1)
    assert "the gate has not passed" in refused("release", candidate["version"], "--data", data)
    strict = call("gate", candidate["version"], "--set=min_gain=0.9", "--data", data)
    assert strict.exit_code == 1
    assert "not passed" in strict.stdout
    lenient = ("--set=min_gain=-1", "--set=max_drop_condition=1", "--set=max_drop_class=1")
    assert told("gate", candidate["digest"][:12], *lenient, "--data", data)["passed"] is True
    assert told("release", candidate["version"], "--data", data)["release"] == 2
    assert "is 'gone'" in refused("gate", "gone", "--data", data)


@pytest.mark.slow
@needs_training
@pytest.mark.timeout(400)
def test_ctrl_c_ends_a_training_here_with_everything_it_started(data: Path, starter: Starter, tmp_path: Path) -> None:
    taught(data, starter, tmp_path, labels=4)
    command = [sys.executable, "-m", "edgecase_cloud", "train", "--here", "--epochs", "5000", "--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    parts = services.open_services(settings.load(data))
    try:
        until(lambda: stage(parts) == "train" and users(data), within_s=90, what="the training")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, errors.decode()
    assert "stopped; nothing was released" in errors.decode()
    assert stage(parts, "error") == "stopped with Ctrl-C"
    until(lambda: not users(data), what="every process to end")


def stage(parts: Services, field: str = "stage") -> str:
    from edgecase_cloud.catalogue import Job

    with parts.catalogue.session() as session:
        job = session.get(Job, 1)
        return str(getattr(job, field)) if job else ""


def users(data: Path) -> list[str]:
    """The processes that were given a path in this folder, or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, folder = (process / "cmdline").read_bytes(), (process / "cwd").readlink()
            state = (process / "stat").read_text().rpartition(") ")[2][0]
        except OSError:
            continue
        if state != "Z" and (str(data).encode() in command or folder.is_relative_to(data)):
            found.append(f"{process.name} {command[:80]!r}")
    return found
