"""What settings promise: read once, in a known order, and every mistake named with its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecase_cloud.settings import CloudSettings, SettingsError, load


def write(folder: Path, text: str) -> Path:
    (folder / "cloud.toml").write_text(text)
    return folder


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "web_port = 1\nmqtt_port = 1\ns3_port = 1\n")
    monkeypatch.setenv("EDGECASE_CLOUD_MQTT_PORT", "2")
    monkeypatch.setenv("EDGECASE_CLOUD_S3_PORT", "2")
    settings = load(tmp_path, s3_port=3, host=None)
    assert (settings.web_port, settings.mqtt_port, settings.s3_port) == (1, 2, 3)


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.hub_url, settings.store_url, settings.durability) == (
        "http://127.0.0.1:8700",
        "http://127.0.0.1:8702",
        "normal",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web_prot = 1", 'unknown key "web_prot" in cloud.toml; did you mean "web_port"?'),
        ("zzz = 1\nyyy = 2", 'unknown key "zzz" in cloud.toml (and 1 more)'),
        ("web_port = 70000", '"web_port" in cloud.toml: input should be less than or equal to 65535, not 70000'),
        ("durability = 'maybe'", "\"durability\" in cloud.toml: input should be 'normal' or 'strict', not 'maybe'"),
        ("data = '/elsewhere'", "the data folder is the one that the file lies in"),
        ("host = '0.0.0.0'", "'0.0.0.0' is not a loopback address"),
        ("host = 'example.org'", "'example.org' is not a loopback address"),
        ("a\tb", "cloud.toml: not valid TOML"),
        (f"host = {'[' * 10_000}", "cloud.toml: not valid TOML"),
        (f"host = [{'8700, ' * 40_000}]", "cloud.toml: more than 200,000 bytes"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_cure(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "cloud.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="byte 0 is not UTF-8"):
        load(tmp_path)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeffweb_port = 1")).web_port == 1


def test_a_mistake_on_the_command_line_is_not_said_to_be_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='"web_port" in the environment or the command line: '):
        load(write(tmp_path, "mqtt_port = 1"), web_port=70_000)


def test_a_mistake_in_the_environment_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECASE_CLOUD_WEBPORT", "1")
    with pytest.raises(SettingsError, match='EDGECASE_CLOUD_WEBPORT sets nothing; did you mean "web_port"'):
        load(tmp_path)


def test_a_child_process_reads_back_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        write(tmp_path, "durability = 'strict'"), web_port=4, host="localhost", max_frames_per_device_per_day=7
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load(tmp_path) == settings


def test_settings_cannot_be_changed_after_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).web_port = 1  # type: ignore[misc]


def test_every_setting_but_the_plain_ones_says_what_it_is() -> None:
    plain = {"data", "web_port", "mqtt_port", "s3_port"}
    assert {name for name, field in CloudSettings.model_fields.items() if not field.description} == plain
