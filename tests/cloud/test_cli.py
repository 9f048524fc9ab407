"""What the command line promises: one line for what a person can mend, JSON for a script, and codes that mean something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecase_cloud import review_queue
from edgecase_models import wire
from support import circle
from support.cloud import Cloud, edgecase_cloud, shot

HEAVY = (
    "sqlalchemy",
    "alembic",
    "boto3",
    "botocore",
    "fastapi",
    "tuf",
    "pydantic",
    "paho",
    "structlog",
    "numpy",
    "torch",
)


def test_the_command_line_loads_nothing_heavy_to_show_its_help() -> None:
    code = "import sys; from edgecase_cloud import cli; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_command_of_every_part_is_there() -> None:
    from edgecase_cloud.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    groups = {group.name for group in app.registered_groups}
    assert {"up", "status", "batch", "reconcile", "serve"} <= names
    assert "device" in groups


@pytest.mark.parametrize("command", [("status",), ("batch",), ("reconcile",), ("device", "list")])
def test_a_folder_without_a_cloud_is_said_in_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = edgecase_cloud(*command, "--data", str(tmp_path / "none"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "holds no cloud yet; start one with: edgecase-cloud up" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_device_can_be_added_before_the_cloud_ever_ran(tmp_path: Path) -> None:
    result = edgecase_cloud("device", "add", "cam-1", "--data", str(tmp_path / "data"), "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["device"], told["hub"], told["running"]) == ("cam-1", "http://127.0.0.1:8700", False)
    assert told["command"] == f"edgecase-agent enroll --hub {told['hub']} --token {told['token']} --out cam-1"
    shown = edgecase_cloud("device", "add", "cam-1", "--data", str(tmp_path / "data")).stdout
    assert "edgecase-agent enroll --hub http://127.0.0.1:8700 --token " in shown
    assert told["token"] not in shown, "each invitation has a token of its own"
    assert "it needs the cloud to run" in shown


def test_status_and_lists_tell_a_script_and_a_person_what_is_there(cloud: Cloud) -> None:
    device = cloud.device("cli-cam")
    device.deliver(shot("cli-cam"))
    device.say(wire.Status(device="cli-cam", online=True, session="s", at=wire.now(), running_digest="c" * 64))
    device.deliver(shot("cli-cam"))  # what was said before is in the catalogue by now
    device.leave()
    told = json.loads(cloud.run("status", "--json").stdout)
    assert told["running"]["web"] == cloud.endpoints.web
    assert told["frames"]["delivery"]["acknowledged"] >= 2
    assert set(told["frames"]["review"]) == {"open", "accepted", "corrected", "rejected", "context"}
    assert told["store"]["reachable"]
    (listed,) = [entry for entry in told["devices"] if entry["id"] == "cli-cam"]
    assert (listed["online"], listed["running_digest"]) == (True, "c" * 64)
    assert listed in json.loads(cloud.run("device", "list", "--json").stdout)
    assert "cli-cam" in cloud.run("device", "list").stdout
    assert "frames acknowledged" in cloud.run("status").stdout


def test_the_batch_is_told_to_a_script_and_to_a_person_and_is_the_queues_order(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = circle.services_in(data)
    with made.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        for number in range(1, 7):
            circle.add_frame(made, session, number, score=float(number), thumbnail_jpeg=circle.plain_jpeg(20 * number))
        circle.add_frame(made, session, 9, score=0.1, thumbnail_jpeg=circle.plain_jpeg(20))
    told = json.loads(edgecase_cloud("batch", "--data", str(data), "--size", "4", "--json").stdout)
    assert (told["waiting"], told["labels"], told["cold"]) == (7, 0, 0.5)
    assert [pick["rank"] for pick in told["picks"]] == [1, 2, 3, 4]
    assert told["repeats"] == [
        {"id": circle.frame_id(9), "of": circle.frame_id(1), "reason": f"duplicate of {circle.frame_id(1)}"}
    ]
    with made.catalogue.session() as session:
        queue = review_queue.queue(session, review_queue.QueueFilter(), limit=4)
    assert [item.id for item in queue.items] == [pick["id"] for pick in told["picks"]]
    shown = edgecase_cloud("batch", "--data", str(data), "--size", "4").stdout
    assert "4 of 7 frames that wait" in shown
    assert "1 repeat others and stand last" in shown
    refused = edgecase_cloud("batch", "--data", str(data), "--size", "0")
    assert refused.returncode == 2


def test_reconcile_finds_what_is_missing_and_what_is_too_much(cloud: Cloud) -> None:
    device = cloud.device("reconcile-cam")
    kept, lost, waiting = shot("reconcile-cam"), shot("reconcile-cam"), shot("reconcile-cam")
    device.deliver(kept)
    device.deliver(lost)
    device.upload(waiting, device.offer(waiting))
    device.leave()
    store = cloud.services().store
    stray = "frames/reconcile-cam/2026-01-01/stray.jpg"
    store.put(stray, b"stray")
    before = json.loads(cloud.run("reconcile", "--json").stdout)
    assert (before["lost"], stray in before["unknown"], waiting.id in before["waiting"]) == ([], True, True)
    key = f"frames/reconcile-cam/2026-03-04/{lost.id}.jpg"
    content = store.get(key)
    store._client.delete_object(Bucket=store.bucket, Key=key)
    result = cloud.run("reconcile", "--json")
    assert (result.returncode, json.loads(result.stdout)["lost"]) == (1, [lost.id])
    store.put(key, content)
    assert cloud.run("reconcile").returncode == 0
