"""What the settings promise: what is set is what counts, and a mistake is one line that names it and its cure."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgecase_agent.by_policy import rules_of
from edgecase_agent.rules import Rules
from edgecase_agent.settings import (
    AgentSettings,
    SettingsError,
    known_keys,
    load_enrolment,
    load_settings,
)
from edgecase_models.policy import Policy, SecondMember, Trigger, known_fields
from support.identities import self_made

LEAST = """
[source]
uri = "clip.mp4"
[model]
bundle = "model.tar"
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EDGECASE_")]:
        monkeypatch.delenv(name)


def load(folder: Path, content: str | bytes) -> AgentSettings:
    path = folder / "agent.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_settings(path)


def refused(folder: Path, content: str | bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, content)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_source_and_a_model_are_enough_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, LEAST)
    assert settings.source.uri == str(tmp_path / "clip.mp4")
    assert settings.model.bundle == tmp_path / "model.tar"
    assert settings.data == tmp_path / "data"
    assert settings.enrolment is None
    assert load_enrolment(settings) is None


@pytest.mark.parametrize(
    ("content", "redacts"),
    [
        ("", None),
        ("classes = ['person']", "blur"),
        ("bundle = 'faces.tar'", "blur"),
        ("mode = 'drop'\nclasses = ['person']", "drop"),
        ("mode = 'off'\nbundle = 'faces.tar'", None),
    ],
)
def test_what_is_to_be_looked_for_is_painted_over_unless_told_otherwise(
    tmp_path: Path, content: str, redacts: str | None
) -> None:
    chosen = load(tmp_path, f"{LEAST}[privacy]\n{content}").privacy
    assert chosen.redacts == redacts
    assert chosen.bundle in {None, tmp_path / "faces.tar"}


def test_an_address_with_a_scheme_is_no_path(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST.replace("clip.mp4", "sim://street?seed=1")).source.uri == "sim://street?seed=1"


def test_the_environment_counts_over_the_file_and_an_empty_variable_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECASE_SELECTION__WINDOW_S", "3.5")
    monkeypatch.setenv("EDGECASE_SELECTION__GAP_S", "")
    monkeypatch.setenv("EDGECASE_DATA", "/elsewhere")
    settings = load(tmp_path, LEAST + "[selection]\nwindow_s = 7\ngap_s = 2\n")
    assert (settings.selection.window_s, settings.selection.gap_s, settings.data) == (3.5, 2.0, Path("/elsewhere"))


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    said = refused(tmp_path, LEAST + "[selecton]\nwindow_s = 1\n")
    assert said == 'unknown key "selecton.window_s" in agent.toml; did you mean "selection.window_s"?'
    said = refused(tmp_path, "window_s = 1\n" + LEAST)
    assert said == 'unknown key "window_s" in agent.toml; did you mean "selection.window_s"?'
    assert refused(tmp_path, "nonsense = 1\n" + LEAST) == 'unknown key "nonsense" in agent.toml'


def test_the_budget_has_a_table_of_its_own_and_the_old_keys_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = load(tmp_path, LEAST + "[selection.budget]\nframes_per_day = 40\n").selection.budget
    assert [limit.name for limit in budget.each()] == ["frames_per_day", "bytes_per_day"]
    said = refused(tmp_path, LEAST + "[selection]\nframes_per_hour = 30\n")
    assert said == (
        'unknown key "selection.frames_per_hour" in agent.toml; did you mean "selection.budget.frames_per_hour"?'
    )
    said = refused(tmp_path, LEAST + "[selection]\nbytes_per_day = 30\n")
    assert 'did you mean "selection.budget.bytes_per_day"?' in said
    monkeypatch.setenv("EDGECASE_SELECTION__BYTES_PER_DAY", "30")
    assert 'did you mean "EDGECASE_SELECTION__BUDGET__BYTES_PER_DAY"?' in refused(tmp_path, LEAST)


def test_the_environment_reaches_into_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECASE_SELECTION__BUDGET__FRAMES_PER_HOUR", "7")
    monkeypatch.setenv("EDGECASE_SELECTION__TRIGGERS", '["audit"]')
    settings = load(tmp_path, LEAST + "[selection.budget]\nframes_per_hour = 30\nbytes_per_hour = 1e6\n")
    assert (settings.selection.budget.frames_per_hour, settings.selection.budget.bytes_per_hour) == (7, 1e6)
    assert settings.selection.triggers == (Trigger.AUDIT,)
    monkeypatch.setenv("EDGECASE_SELECTION__BUDGET__FRAMES_PER_HOUR", "0")
    said = refused(tmp_path, LEAST)
    assert said.startswith('"selection.budget" in the environment: frames_per_hour = 0 lets no frame through')


def test_the_settings_are_a_policy_and_are_checked_by_its_schema(tmp_path: Path) -> None:
    campaign = "[[campaigns]]\nname = 'night'\nquota_per_day = 5\nwhen = 'luma < 40'\n"
    policy = load(tmp_path, LEAST + "[selection]\ngap_s = 2\n" + campaign).policy
    assert (policy.selection.gap_s, policy.campaigns[0].name) == (2, "night")
    assert Policy.from_json(policy.to_json()) == policy
    said = refused(tmp_path, LEAST + campaign.replace("luma", "lumma"))
    assert said == (
        '"campaigns[0].when" in agent.toml: at character 1, nothing is called "lumma"; did you mean "luma"?'
    )
    said = refused(tmp_path, LEAST + campaign.replace("quota_per_day", "quota_per_hour"))
    assert said.startswith('"campaigns[0].quota_per_day" is missing in agent.toml')


def test_the_campaigns_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECASE_CAMPAIGNS", json.dumps([{"name": "night", "quota_per_day": 5, "when": "luma < 40"}]))
    assert load(tmp_path, LEAST).campaigns[0].name == "night"
    monkeypatch.setenv("EDGECASE_CAMPAIGNS", json.dumps([{"name": "Night", "quota_per_day": 5, "when": "luma < 40"}]))
    assert refused(tmp_path, LEAST).startswith('"campaigns[0].name" in the environment: string should match')


def test_cohorts_are_names_from_the_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(tmp_path, LEAST).cohorts == ()
    assert load(tmp_path, 'cohorts = ["vans", "north-2"]\n' + LEAST).cohorts == ("vans", "north-2")
    assert refused(tmp_path, 'cohorts = ["van-*"]\n' + LEAST).startswith(
        '"cohorts[0]" in agent.toml: string should match'
    )
    monkeypatch.setenv("EDGECASE_COHORTS", '["cars"]')
    assert load(tmp_path, LEAST).cohorts == ("cars",)


def test_a_bundle_of_the_committee_is_its_member_and_paths_are_relative(tmp_path: Path) -> None:
    settings = load(tmp_path, LEAST + "[committee]\nbundle = 'b.tar'\n[telemetry]\nfile = 'vehicle.json'\n")
    assert (settings.committee.member, settings.committee.bundle) == (SecondMember.BUNDLE, tmp_path / "b.tar")
    assert settings.telemetry.file == tmp_path / "vehicle.json"


def test_an_unknown_variable_is_named_with_the_nearest_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECASE_SELECTON__WINDOW_S", "1")
    assert "EDGECASE_SELECTION__WINDOW_S" in refused(tmp_path, LEAST)
    monkeypatch.delenv("EDGECASE_SELECTON__WINDOW_S")
    monkeypatch.setenv("EDGECASE_CLOUD_WEB__PORT", "1")
    load(tmp_path, LEAST)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "[source]\nuri = 3\n[model]\nbundle = 'x'",
            '"source.uri" in agent.toml: input should be a valid string, not 3',
        ),
        (LEAST + '[uplink]\nwindows = ["22-6"]', '"22-6" is no stretch of a day; write it as in "22:00-06:00"'),
        (
            LEAST + "[uplink]\nmetered_bytes_per_day = 5",
            "metered_bytes_per_day must be 0 or at least 10000000, as much as one request",
        ),
        (
            LEAST + "[uplink]\nin_flight = 0",
            '"uplink.in_flight" in agent.toml: input should be greater than or equal to 1, not 0',
        ),
        (LEAST + "[selection]\nwindow_s = nan", "input should be a finite number, not nan"),
        (LEAST + "[selection]\nwindow_s = 1e400", "finite number, not inf"),
        (
            LEAST + "[selection]\nwindow_s = '\u202eten'",
            '"selection.window_s" in agent.toml: input should be a valid number',
        ),
        (LEAST + "[model]\nthreads = 1", "not valid TOML: Cannot declare ('model',) twice (at line 6"),
        (LEAST + "threads = 1\nthreads = 2", "not valid TOML: Cannot overwrite a value"),
        (
            LEAST + "[privacy]\nmode = 'blur'",
            "mode = 'blur' without anything to look for; set privacy.bundle or privacy.classes",
        ),
        (LEAST + "[privacy]\nbundle_classes = ['face']", "set privacy.bundle, or name them in privacy.classes"),
        (
            LEAST + "[privacy]\nmode = 'pixelate'",
            "\"privacy.mode\" in agent.toml: input should be 'off', 'blur' or 'drop'",
        ),
        ("[source]\nuri = 'a'", '"model" is missing in agent.toml'),
        ("uplink = 3" + LEAST, '"uplink" in agent.toml: input should be a valid dictionary'),
        ("device = 'Cam 1'" + LEAST, "string should match pattern '^[a-z0-9_-]{1,64}$', not 'Cam 1'"),
        (b"\xff\xfe\x00", "not UTF-8; save the file as UTF-8"),
        (b"# " + bytes(200_000), "agent.toml: more than 200,000 bytes"),
        ("a." * 10_000 + "b = 1", "agent.toml: a key of more than 32 parts"),
        ("x = " + "[" * 10_000, "not valid TOML"),
        ('"a\\nb\\u001b" = 1' + LEAST, 'unknown key "a�b�" in agent.toml'),
        ("k" * 5000 + " = 1" + LEAST, "kkk..."),
        ("", '"source" is missing in agent.toml (and 1 more)'),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_key_file_and_fault(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    assert expected in refused(tmp_path, content)


def test_tabs_and_the_mark_that_windows_editors_put_first_do_no_harm(tmp_path: Path) -> None:
    settings = load(tmp_path, b"\xef\xbb\xbf" + (LEAST + "[selection]\n\twindow_s\t=\t4\r\n").encode())
    assert settings.selection.window_s == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read \(No such file"):
        load_settings(tmp_path / "none.toml")


@examples(max_examples=60, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_the_file_holds_there_is_nothing_but_settings_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


def test_every_key_says_what_it_is_for_and_the_selection_is_that_of_the_rules() -> None:
    for key, field in known_fields(AgentSettings):
        assert field.description, key
    assert {"selection.window_s", "log_level", "campaigns.when"} <= set(known_keys())
    assert rules_of(Policy()) == Rules()


# ---- enrolment -----------------------------------------------------------------------------------------------------

DEVICE = """
device = "cam-1"
mqtt_host = "127.0.0.1"
mqtt_port = 8701
hub_url = "http://127.0.0.1:8700"
something_new = true
"""


def enrolled(folder: Path, device: str = DEVICE, own: str = "") -> AgentSettings:
    self_made(folder / "enrolment")
    (folder / "enrolment" / "device.toml").write_text(device)
    (folder / "enrolment" / "root.json").write_bytes(b"{}")
    return load(folder, f'enrolment = "enrolment"\n{own}\n{LEAST}')


def test_an_enrolment_gives_the_identity(tmp_path: Path) -> None:
    enrolment = load_enrolment(enrolled(tmp_path))
    assert enrolment is not None
    assert (enrolment.device, enrolment.mqtt_port, enrolment.root) == ("cam-1", 8701, b"{}")
    assert enrolment.identity.folder == tmp_path / "enrolment"


@pytest.mark.parametrize(
    ("device", "own", "expected"),
    [
        (DEVICE, 'device = "cam-2"', 'device is "cam-2", but'),
        (DEVICE.replace("8701", "99999"), "", "device.toml: Expected `int` <= 65535"),
        (DEVICE.replace('device = "cam-1"', 'device = "../x"'), "", "device.toml"),
        (DEVICE.replace("http://", "file://"), "", "device.toml"),
        ("x", "", "device.toml: not valid TOML"),
    ],
)
def test_an_enrolment_that_cannot_be_used_is_one_line(tmp_path: Path, device: str, own: str, expected: str) -> None:
    settings = enrolled(tmp_path, device, own)
    with pytest.raises(SettingsError) as caught:
        load_enrolment(settings)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_enrolment_names_the_command_that_makes_one(tmp_path: Path) -> None:
    settings = load(tmp_path, f'enrolment = "nowhere"\n{LEAST}')
    with pytest.raises(SettingsError, match="nowhere: no such folder; make one with `edgecase-agent enroll`"):
        load_enrolment(settings)


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "ca.pem", "root.json"])
def test_an_enrolment_that_lacks_a_file_names_it_and_the_command_that_makes_another(tmp_path: Path, name: str) -> None:
    settings = enrolled(tmp_path)
    (tmp_path / "enrolment" / name).unlink()
    with pytest.raises(SettingsError, match=r"enrolment .*(No such file|cannot be used).*`edgecase-cloud device add`"):
        load_enrolment(settings)


def test_a_key_that_is_not_the_certificates_is_told(tmp_path: Path) -> None:
    settings = enrolled(tmp_path)
    (self_made(tmp_path / "other") / "key.pem").replace(tmp_path / "enrolment" / "key.pem")
    with pytest.raises(SettingsError, match=r"certificate.pem with key.pem cannot be used .*enrol it again"):
        load_enrolment(settings)


def test_an_enrolment_of_an_earlier_version_with_a_password_says_the_way_forward(tmp_path: Path) -> None:
    settings = enrolled(tmp_path)
    (tmp_path / "enrolment" / "certificate.pem").rename(tmp_path / "enrolment" / "password")
    with pytest.raises(SettingsError, match=r"takes no passwords any more; remove the folder, and enrol it again"):
        load_enrolment(settings)
