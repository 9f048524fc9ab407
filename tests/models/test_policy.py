"""What a policy promises: the same schema wherever it comes from, one identity, and a mistake is one line that names its cure."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgecase_models.cli import app
from edgecase_models.policy import (
    MAX_POLICY_BYTES,
    PERIODS_S,
    CampaignState,
    Limits,
    Policy,
    PolicyError,
    SecondMember,
    SelectionPolicy,
    Strategy,
    Trigger,
    check_travels,
    known_fields,
    read_policy,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "policy-v1.json"
README = Path(__file__).parents[2] / "models" / "README.md"
CAMPAIGN = {"name": "a", "when": "luma < 40", "quota_per_day": 5}


def documented() -> str:
    section = README.read_text().partition("## The policy, version 1")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```toml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def read(folder: Path, content: str) -> Policy:
    path = folder / "policy.toml"
    path.write_text(content)
    return read_policy(path)


def refused(folder: Path, content: str) -> str:
    with pytest.raises(PolicyError) as caught:
        read(folder, content)
    line = str(caught.value)
    assert "\n" not in line
    return line


def budget(**limits: object) -> str:
    """Why these limits are refused."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(json.dumps({"selection": {"budget": limits}}).encode())
    return str(caught.value)


# ---- one schema ----------------------------------------------------------------------------------------------------


def test_the_specified_example_is_a_policy_and_survives_the_journey(tmp_path: Path) -> None:
    policy = read(tmp_path, documented())
    assert policy.selection.quotas == {Trigger.MISSED: 10}
    assert policy.selection.budget.boxes_per_month == 20_000
    assert policy.selection.budget.frames_per_minute is None
    assert policy.campaigns[0].expires_at == datetime(2027, 3, 31, tzinfo=UTC)
    arrived = Policy.from_json(policy.to_json())
    assert arrived == policy
    assert arrived.digest == policy.digest


def test_a_golden_policy_is_read_for_ever_and_keeps_its_identity() -> None:
    payload = GOLDEN.read_bytes().strip()
    policy = Policy.from_json(payload)
    assert policy.to_json() == payload
    assert policy.digest == "2ae7c8cb6e2150d28fc9e77a08ff9b2673f4a664c19ac2091529d7837744cb03"
    assert policy.selection.quotas == {Trigger.MISSED: 10.0}
    assert policy.campaigns[0].state_at(datetime(2027, 3, 31, tzinfo=UTC)) is CampaignState.EXPIRED


def test_what_is_at_its_default_is_not_sent_so_that_older_devices_can_read_the_rest() -> None:
    assert Policy().to_json() == b'{"format":"edgecase-policy/1","name":"default"}'
    sent = json.loads(Policy.model_validate({"selection": {"gap_s": 3, "window_s": 10}}).to_json())
    assert sent["selection"] == {"gap_s": 3.0}


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"bytes_per_day": None},
        {"frames_per_day": 30, "bytes_per_day": None, "boxes_per_hour": 3.5},
        {"frames_per_hour": 60, "bytes_per_day": 200e6},
        {"frames_per_month": 9, "bytes_per_minute": 1e6},
    ],
    ids=str,
)
def test_budgets_survive_the_journey(limits: dict) -> None:
    policy = Policy.model_validate({"selection": {"budget": limits}})
    arrived = Policy.from_json(policy.to_json())
    assert arrived == policy
    assert arrived.selection.budget.each() == Limits(**limits).each()


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        ("committee.bundle = 'other.tar'", 'set committee.member = "candidate"'),
        ("selection.strategy = 'margin'\ncommittee.share = 0.5", "set committee.share = 0"),
    ],
)
def test_what_no_device_could_follow_does_not_travel(tmp_path: Path, content: str, cure: str) -> None:
    with pytest.raises(PolicyError, match=cure):
        check_travels(read(tmp_path, content))
    check_travels(read(tmp_path, "selection.strategy = 'margin'"))


def test_an_empty_file_is_the_default_policy(tmp_path: Path) -> None:
    policy = read(tmp_path, "")
    assert policy == Policy()
    assert policy.selection.strategy is Strategy.EDE
    assert [(limit.name, limit.amount) for limit in policy.selection.budget.each()] == [
        ("frames_per_hour", 60),
        ("bytes_per_day", 200e6),
    ]


def test_equal_policies_have_equal_bytes_however_they_were_written(tmp_path: Path) -> None:
    one = read(tmp_path, '[selection]\ntriggers = ["audit", "missed"]\ngap_s = 2\n[[campaigns]]\n' + campaign_toml())
    other = Policy.from_json(
        json.dumps(
            {
                "campaigns": [CAMPAIGN | {"expires_at": "2027-01-01T01:00:00+01:00"}],
                "selection": {"gap_s": 2.0, "triggers": ["missed", "audit", "missed"]},
            },
            indent=2,
        ).encode()
    )
    assert one.to_json() == other.to_json()
    assert one.digest == other.digest != Policy().digest
    assert b" " not in one.to_json().replace(b"luma < 40", b"")


def campaign_toml() -> str:
    return 'name = "a"\nwhen = "luma < 40"\nquota_per_day = 5\nexpires_at = 2027-01-01T00:00:00Z\n'


def test_paths_are_relative_to_the_file_and_a_bundle_is_the_member(tmp_path: Path) -> None:
    policy = read(tmp_path, '[committee]\nbundle = "other.tar"\n')
    assert policy.committee.bundle == tmp_path / "other.tar"
    assert policy.committee.member is SecondMember.BUNDLE


def test_every_key_says_in_a_sentence_what_it_is_for() -> None:
    for key, field in known_fields():
        assert field.description is not None, key
        assert field.description.endswith("."), key
    assert {"selection.budget.frames_per_hour", "campaigns.when", "committee.member"} <= dict(known_fields()).keys()


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "[selection]\nframes_per_hour = 30",
            'unknown key "selection.frames_per_hour" in policy.toml; did you mean "selection.budget.frames_per_hour"?',
        ),
        (
            "[selection]\nbytes_per_day = 30",
            'unknown key "selection.bytes_per_day" in policy.toml; did you mean "selection.budget.bytes_per_day"?',
        ),
        ("[selecton]\ngap_s = 1", 'unknown key "selecton.gap_s" in policy.toml; did you mean "selection.gap_s"?'),
        (
            "[[campaigns]]\n" + campaign_toml() + "quota = 3",
            'unknown key "campaigns[0].quota" in policy.toml; did you mean "campaigns.quota_per_day"?',
        ),
        ("[[campaign]]\n" + campaign_toml(), 'unknown key "campaign" in policy.toml; did you mean "campaigns"?'),
        ("selection = 3", '"selection" in policy.toml: input should be a valid dictionary or instance'),
        ("[selection]\nstrategy = 'edee'", '"selection.strategy" in policy.toml: input should be'),
        ("[selection]\nquotas = { audits = 3 }", '"selection.quotas.audits" in policy.toml: input should be'),
        ("[selection]\nquotas = { audit = 0 }", '"selection.quotas.audit" in policy.toml: input should be greater'),
        ("[selection]\ntrack_discount = 0", '"selection.track_discount" in policy.toml: input should be greater'),
        ("[selection]\ncontext_before_s = 31", '"selection.context_before_s" in policy.toml: input should be less'),
        ("[selection]\ncontext_frames = 3", "set context_before_s or context_after_s"),
        ("[selection]\ncontext_after_s = 3", "set context_frames"),
        ("[committee]\nmember = 'bundle'", "name its file in committee.bundle"),
        ("[committee]\nmember = 'flipped'\nbundle = 'x'", "leave one of them out"),
        ("format = 'edgecase-policy/2'", "\"format\" in policy.toml: input should be 'edgecase-policy/1'"),
        ("name = 'Night shift'", '"name" in policy.toml: string should match pattern'),
        ("[[campaigns]]\nname = 'x'\nquota_per_day = 1", '"campaigns[0].when" is missing in policy.toml'),
        (
            "[[campaigns]]\n" + campaign_toml().replace("luma", "lumma"),
            '"campaigns[0].when" in policy.toml: at character 1, nothing is called "lumma"; did you mean "luma"?',
        ),
        ("[[campaigns]]\n" + campaign_toml().replace("00Z", "00"), '"campaigns[0].expires_at" in policy.toml: input'),
        ("[[campaigns]]\n" + campaign_toml() + "starts_at = 2027-01-01T00:00:00Z", "it expires before it starts"),
        ("[[campaigns]]\n" + campaign_toml().replace("2027", "9999"), "the year 9999 is not between"),
        (("[[campaigns]]\n" + campaign_toml()) * 2, 'two campaigns are called "a"; rename one'),
        ("[[campaigns]]\n" + campaign_toml() + "cohort = ['VAN']", '"campaigns[0].cohort[0]" in policy.toml: string'),
        ("x = ", "policy.toml: not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_key_file_and_cure(
    tmp_path: Path, content: str, expected: str
) -> None:
    assert expected in refused(tmp_path, content)


def test_there_are_32_campaigns_at_most() -> None:
    many = [CAMPAIGN | {"name": f"c{number}"} for number in range(33)]
    assert len(Policy.from_json(json.dumps({"campaigns": many[:32]}).encode()).campaigns) == 32
    with pytest.raises(PolicyError, match=r'"campaigns" in policy: .* at most 32 items'):
        Policy.from_json(json.dumps({"campaigns": many}).encode())


def test_a_policy_too_long_to_travel_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    cohort = json.dumps([f"device-{number:050}" for number in range(100)])
    content = "".join(
        f"[[campaigns]]\nname = 'c{number}'\nwhen = 'true'\nquota_per_day = 1\ncohort = {cohort}\n"
        for number in range(32)
    )
    assert "shorten its campaigns" in refused(tmp_path, content)
    with pytest.raises(PolicyError, match="more than 100,000"):
        Policy.from_json(b"{" + b" " * MAX_POLICY_BYTES + b"}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 50_000,
        b'{"selection":' * 7000,
        b"\xff",
        b'{"selection":{"gap_s":NaN}}',
        b'{"name":"a","name":"b"}',
    ],
)
def test_hostile_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(payload)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_is_read_or_refused(data: st.DataObject) -> None:
    payload = bytearray(Policy.model_validate({"campaigns": [CAMPAIGN]}).to_json())
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PolicyError):
        assert Policy.from_json(bytes(payload)).digest


def test_the_detector_does_not_pay_for_the_schema() -> None:
    code = (
        "import sys, edgecase_models.detector, edgecase_models.strategy, edgecase_models.facts; "
        "sys.exit('pydantic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"frames_per_hour": 0}, "frames_per_hour = 0 lets no frame through; leave it out for no such limit"),
        ({"bytes_per_day": 0}, "bytes_per_day = 0 lets no frame through"),
        ({"boxes_per_day": 0}, "set selection.triggers = [] to keep nothing"),
        ({"frames_per_minute": 0.5}, "less than one, so none could ever be kept; set frames_per_hour = 30 instead"),
        ({"frames_per_hour": 0.01}, "set frames_per_month = 7.2 instead"),
        ({"frames_per_month": 0.5}, "set it to 1 at least"),
        ({"boxes_per_minute": 0.1}, "set boxes_per_hour = 6 instead"),
        ({"bytes_per_day": 200}, "less than a picture weighs; give bytes, as in 200_000_000"),
        ({"frames_per_hour": None}, "no limit of frames is set; set frames_per_minute, _hour, _day or _month"),
        ({"frames_per_hour": -1}, "greater than or equal to 0"),
        ({"frames_per_hour": 1e12}, "less than or equal to"),
        ({"frames_per_week": 3}, 'unknown key "selection.budget.frames_per_week"'),
    ],
)
def test_an_impossible_budget_is_refused_with_what_to_do(limits: dict, expected: str) -> None:
    assert expected in budget(**limits)


def test_a_limit_that_is_given_takes_the_place_of_the_default_of_its_currency() -> None:
    def names(**given: float | None) -> list[str]:
        return [limit.name for limit in Limits(**given).each()]

    assert names(frames_per_day=20) == ["frames_per_day", "bytes_per_day"]
    assert names(bytes_per_hour=1e6) == ["frames_per_hour", "bytes_per_hour"]
    assert names(bytes_per_day=None) == ["frames_per_hour"]
    assert names(boxes_per_month=300) == ["frames_per_hour", "bytes_per_day", "boxes_per_month"]


def test_limits_that_another_makes_unreachable_are_named() -> None:
    def unreachable(**given: float) -> list[str]:
        return [limit.name for limit in Limits(**given).unreachable()]

    assert unreachable(frames_per_hour=1000, frames_per_day=100) == ["frames_per_hour"]
    assert unreachable(frames_per_minute=1, frames_per_day=2000) == ["frames_per_day"]
    assert unreachable(frames_per_minute=1, frames_per_hour=60, frames_per_day=1000) == []
    assert unreachable(frames_per_hour=100, bytes_per_day=1e4) == [], "currencies are not compared"


@given(st.dictionaries(st.sampled_from(sorted(PERIODS_S)), st.integers(1, 5000), min_size=2))
def test_unreachable_is_what_can_never_be_used_up(amounts: dict[str, int]) -> None:
    limits = Limits(**{f"frames_per_{period}": amount for period, amount in amounts.items()})
    for limit in limits.each():
        if limit.currency == "frames":
            reached = most_in(limit.period_s, amounts) >= limit.amount
            assert reached is (limit not in limits.unreachable())


def most_in(period_s: float, amounts: dict[str, int]) -> float:
    """The most frames in one stretch of a period: each limit alone would allow so many, and the least of that holds."""
    return min(amount * max(1, -(-period_s // PERIODS_S[period])) for period, amount in amounts.items())


# ---- triggers ------------------------------------------------------------------------------------------------------


def test_only_the_named_triggers_may_pick() -> None:
    selection = SelectionPolicy(triggers=("missed", "uncertainty"))
    assert selection.triggers == (Trigger.UNCERTAINTY, Trigger.MISSED)
    assert not selection.may_pick(Trigger.AUDIT)
    assert SelectionPolicy().may_pick(Trigger.AUDIT)
    assert not SelectionPolicy(audit_share=0).may_pick(Trigger.AUDIT)
    assert SelectionPolicy(triggers=()).triggers == ()


# ---- the command ---------------------------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + result.stderr
    return result.stderr if code else result.stdout


def test_the_check_shows_budgets_and_campaigns(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    over, later = now - timedelta(days=1), now + timedelta(days=1)
    path = tmp_path / "policy.toml"
    path.write_text(
        "[selection.budget]\nframes_per_hour = 1000\nframes_per_day = 500\n"
        f"[[campaigns]]\nname = 'old'\nwhen = 'true'\nquota_per_day = 1\nexpires_at = {over.isoformat()}\n"
        f"[[campaigns]]\nname = 'new'\nwhen = 'true'\nquota_per_day = 1\nstarts_at = {later.isoformat()}\n"
        "[[campaigns]]\nname = 'on'\nwhen = '\"bicycle\" in [\"bicycle\"]'\nquota_per_day = 1\n"
    )
    told = run("policy", "check", path)
    assert "1,000 (never reached)" in told
    assert re.search(r"old\W+expired", told)
    assert re.search(r"new\W+not yet", told)
    assert re.search(r"on\W+runs", told)
    assert '"bicycle" in ["bicycle"]' in told, "brackets are no markup"
    sent = json.loads(run("policy", "check", path, "--json"))
    assert Policy.from_json(json.dumps(sent["policy"]).encode()).digest == sent["digest"]


def test_the_check_tells_a_mistake_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[selection]\nstrateggy = 'ede'\n")
    told = run("policy", "check", path, code=2)
    assert len(told.strip().splitlines()) == 1
    assert 'did you mean "selection.strategy"?' in told
    assert "no such" in run("policy", "check", tmp_path / "none.toml", code=2).lower()
