"""What publishing a policy promises: only what devices could follow is signed, it is told once, and it is known who follows what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edgecase_cloud import policies
from edgecase_cloud.catalogue import Event
from edgecase_cloud.cli import app
from edgecase_cloud.policies import PolicyRefused
from edgecase_cloud.release import Repository
from edgecase_cloud.services import Services
from edgecase_models.policy import Policy
from support import circle

NIGHT = """
name = "night"
[selection.budget]
frames_per_hour = 7
[[campaigns]]
name = "dark"
when = "luma < 40"
quota_per_day = 3
"""


@pytest.fixture
def parts(tmp_path: Path) -> Services:
    return circle.services_in(tmp_path / "data")


@pytest.fixture
def night(tmp_path: Path) -> Path:
    path = tmp_path / "night.toml"
    path.write_text(NIGHT)
    return path


def publish(parts: Services, file: Path, cohort: str = "default") -> Policy:
    return policies.publish(parts.settings.data, parts.catalogue, file, cohort=cohort)


def events(parts: Services) -> list[tuple[str, str]]:
    with parts.catalogue.session() as session:
        return [(event.subject, event.detail["name"]) for event in session.query(Event).order_by(Event.id)]


def test_what_is_signed_is_the_policy_as_it_travels(parts: Services, night: Path) -> None:
    policy = publish(parts, night)
    assert Repository(parts.settings.data).policies() == {"default": policy.to_json()}
    assert policies.published(parts.settings.data) == {"default": policy}


def test_every_change_is_recorded_once_so_that_devices_are_poked_once(parts: Services, night: Path) -> None:
    for _ in range(2):
        publish(parts, night)
        publish(parts, night, "van")
    policies.withdraw(parts.settings.data, parts.catalogue)
    publish(parts, night)
    assert events(parts) == [("default", "night"), ("van", "night"), ("default", ""), ("default", "night")]


def test_a_change_that_was_signed_just_before_a_crash_is_recorded_by_the_next_try(parts: Services, night: Path) -> None:
    publish(parts, night)
    Repository(parts.settings.data).withdraw_policy()
    policies.withdraw(parts.settings.data, parts.catalogue)
    assert events(parts) == [("default", "night"), ("default", "")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (NIGHT.replace("luma <", "lumma <"), 'did you mean "luma"'),
        (NIGHT.replace("frames_per_hour", "frames_an_hour"), 'unknown key "selection.budget.frames_an_hour"'),
        ("committee.bundle = 'x.tar'", "a file that no device has"),
        ("selection.strategy = 'margin'\ncommittee.share = 0.5", "set committee.share = 0"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_policy_that_no_device_could_follow_is_refused_and_devices_go_on(
    parts: Services, night: Path, content: str, problem: str
) -> None:
    before = publish(parts, night)
    night.write_text(content)
    with pytest.raises(PolicyRefused, match=problem.replace("[", r"\[")):
        publish(parts, night)
    assert policies.published(parts.settings.data) == {"default": before}
    assert len(events(parts)) == 1


def test_it_is_known_who_follows_which_policy_and_why_not(parts: Services, night: Path) -> None:
    policy = publish(parts, night, "van")
    with parts.catalogue.session.begin() as session:
        circle.add_device(session, "van-1", status={"policy_digest": policy.digest})
        circle.add_device(session, "van-2", status={"policy_digest": "0" * 64, "policy_problem": "it needs features"})
        circle.add_device(session, "van-3")
    told = policies.published(parts.settings.data)
    assert [vars(each) for each in policies.followers(parts.catalogue, told)] == [
        {"device": "van-1", "digest": policy.digest, "cohort": "van", "problem": ""},
        {"device": "van-2", "digest": "0" * 64, "cohort": "", "problem": "it needs features"},
        {"device": "van-3", "digest": "", "cohort": "", "problem": ""},
    ]


# ---- the commands


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", *(str(each) for each in arguments)])


def told(*arguments: object) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_policy_is_published_shown_and_withdrawn_from_the_terminal(tmp_path: Path, night: Path) -> None:
    data = tmp_path / "new"
    published = told("publish", night, "--data", data, "--cohort", "van")
    assert (published["cohort"], published["name"]) == ("van", "night")
    shown = told("show", "--data", data)
    assert shown["policies"]["van"]["digest"] == published["digest"]
    assert shown["policies"]["van"]["policy"]["campaigns"][0]["when"] == "luma < 40"
    assert "night" in call("show", "--data", data).stdout
    assert "is withdrawn" in call("withdraw", "--data", data, "--cohort", "van").stdout
    assert told("show", "--data", data) == {"policies": {}, "devices": []}


def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path, night: Path) -> None:
    data = tmp_path / "new"
    for arguments, cure in (
        (("publish", tmp_path / "gone.toml"), "cannot be read"),
        (("publish", night, "--cohort", "Vans"), "is not 1 to 64 of"),
        (("withdraw", "--cohort", "van"), "there are policies for: none"),
    ):
        result = call(*arguments, "--data", data)
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        assert cure in result.stderr
