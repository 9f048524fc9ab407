"""What enrolling promises: a folder that is whole or not there, a token that no cut wastes, and no trust in who answers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from edgecase_agent.enroll import EnrolmentFailed, enroll
from edgecase_agent.settings import AgentSettings, load_enrolment
from edgecase_cloud.authority import Authority
from edgecase_models import wire
from edgecase_models.enrolment import Answer, Enrolled
from support.identities import self_made
from support.tiny_registry import Registry, running_registry

FILES = {"device.toml", "key.pem", "certificate.pem", "ca.pem", "root.json"}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "keys") as running:
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "device" / "cam-1"


def failed(registry: Registry, out: Path, **given: object) -> str:
    arguments = {"hub_url": registry.url, "token": registry.token, "out": out} | given
    with pytest.raises(EnrolmentFailed) as caught:
        enroll(**arguments)  # type: ignore[arg-type]
    assert not (out / "device.toml").exists(), "whole or not at all"
    return str(caught.value)


def process(registry: Registry, out: Path, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgecase_agent", "enroll", "--hub", registry.url, "--token", registry.token]
    return subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_token_makes_an_enrolment_that_the_settings_take(registry: Registry, out: Path) -> None:
    out.mkdir(parents=True)  # an empty folder will do
    assert enroll(f"{registry.url}/", registry.token, out) == "cam-1"
    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "key.pem").stat().st_mode & 0o077 == 0
    assert list(out.parent.iterdir()) == [out], "nothing lies beside it"
    settings = AgentSettings(source={"uri": "x"}, model={"bundle": "x"}, enrolment=out)  # type: ignore[arg-type]
    enrolment = load_enrolment(settings)
    assert enrolment is not None
    assert (enrolment.device, enrolment.mqtt_port, enrolment.root) == ("cam-1", 8701, b'{"signed": {}}')
    assert registry.url.startswith(enrolment.hub_url.rstrip("/")), "the address that the person gave"
    assert enrolment.identity.validity().ends - wire.now() > timedelta(days=29)


def test_a_kill_while_the_answer_is_on_its_way_wastes_no_token(registry: Registry, out: Path) -> None:
    enrolling: list[subprocess.Popen[str]] = []
    began = threading.Event()

    def kill(answer: bytes) -> tuple[int, bytes]:
        began.wait(30)
        enrolling[0].send_signal(signal.SIGKILL)
        enrolling[0].wait()
        return 200, answer

    registry.reply = kill
    enrolling.append(process(registry, out))
    began.set()
    assert enrolling[0].wait(60) == -signal.SIGKILL
    assert not out.exists()
    assert registry.key, "the cloud has given the token away"
    registry.reply = lambda answer: (200, answer)
    assert enroll(registry.url, registry.token, out) == "cam-1"
    assert {path.name for path in out.iterdir()} == FILES
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("most_bytes", [100, 500])
def test_a_disk_that_takes_no_more_leaves_no_half_of_it(registry: Registry, out: Path, most_bytes: int) -> None:
    """No key (100), or no certificate (500): said in a line, and the same command works when there is room."""
    limited = process(
        registry, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    )
    _, said = limited.communicate(timeout=60)
    assert limited.returncode == 2
    assert "cannot be written: File too large" in said
    assert said.count("\n") == 1
    assert not out.exists()
    assert bool(registry.asked) == (most_bytes == 500), "nothing is asked before the key is safe"
    assert enroll(registry.url, registry.token, out) == "cam-1"


@pytest.mark.parametrize(
    "token", ["", "x", "0" * 40, f"{'0' * 40}.{'0' * 63}", f"{'0' * 40}.{'0' * 64}0", "\u202e" * 105]
)
def test_what_is_no_token_is_told_before_anything_is_done(registry: Registry, out: Path, token: str) -> None:
    assert "`edgecase-cloud device add NAME` prints one" in failed(registry, out, token=token)
    assert not registry.asked
    assert not out.parent.exists()


def test_a_folder_that_holds_something_is_left_alone(registry: Registry, tmp_path: Path) -> None:
    taken = self_made(tmp_path / "taken")
    before = {path: path.read_bytes() for path in taken.iterdir()}
    assert "is not an empty folder; remove it, or name another one with --out" in failed(registry, taken)
    file = tmp_path / "file"
    file.touch()
    assert "is not an empty folder" in failed(registry, file)
    assert {path: path.read_bytes() for path in taken.iterdir()} == before
    assert not registry.asked


@pytest.mark.parametrize(
    ("hub_url", "says"),
    [
        ("http://127.0.0.1:9", "the hub cannot be reached"),
        ("http://nowhere.invalid", "the hub cannot be reached"),
        ("hub:8700", "is no address like http://hub:8700"),
        ("file:///etc", "is no address like http://hub:8700"),
    ],
)
def test_a_hub_that_is_not_there_is_told(registry: Registry, out: Path, hub_url: str, says: str) -> None:
    assert says in failed(registry, out, hub_url=hub_url)


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (
            403,
            b'{"detail": "this token is no longer good; add the device again"}',
            "no longer good; add the device again",
        ),
        (404, b'{"detail": "there is nothing at this address"}', "answers 404 there is nothing at this address"),
        (502, b'{"detail": "x"}', "answers 502"),
        (302, b"", "answers 302"),
        (200, b"<html>hello</html>", "does not answer as a hub does"),
        (200, b'{"enrolled": "{}", "signature": ""}', "the hub's answer cannot be read"),
        (200, b"[" * 300_000, "does not answer as a hub does"),
    ],
)
def test_an_answer_that_is_none_is_told(registry: Registry, out: Path, status: int, content: bytes, says: str) -> None:
    registry.reply = lambda _answer: (status, content)
    assert says in failed(registry, out)


def changed(**values: str) -> Callable[[bytes], tuple[int, bytes]]:
    """Somebody on the line changes what the cloud has signed."""

    def change(answer: bytes) -> tuple[int, bytes]:
        was = msgspec.json.decode(answer, type=Answer)
        said = msgspec.structs.replace(msgspec.json.decode(was.enrolled, type=Enrolled), **values)
        return 200, msgspec.json.encode(msgspec.structs.replace(was, enrolled=msgspec.json.encode(said).decode()))

    return change


@pytest.mark.parametrize("values", [{"root": "{}"}, {"mqtt_host": "evil"}, {"device": "cam-2"}])
def test_an_answer_that_was_changed_on_its_way_is_not_believed(
    registry: Registry, out: Path, values: dict[str, str]
) -> None:
    registry.reply = changed(**values)
    assert "the hub's answer was changed on its way" in failed(registry, out)


def test_another_cloud_is_not_believed(registry: Registry, out: Path, tmp_path: Path) -> None:
    token = registry.token
    registry.authority = Authority(tmp_path / "other")
    assert "not that of the cloud which this device was told to trust" in failed(registry, out, token=token)


def test_a_certificate_for_another_key_or_by_nobody_is_not_taken(registry: Registry, out: Path, tmp_path: Path) -> None:
    others = self_made(tmp_path / "other") / "certificate.pem"
    registry.alter = lambda said: msgspec.structs.replace(said, certificate=others.read_text())
    assert "certificate for this device cannot be used" in failed(registry, out)
    registry.alter = lambda said: msgspec.structs.replace(said, certificate="nothing")
    assert "certificate for this device cannot be used" in failed(registry, out)
    registry.alter = lambda said: msgspec.structs.replace(said, certificate=registry.authority.pem.decode())
    assert "is for another key" in failed(registry, out)


@pytest.mark.parametrize("off", [timedelta(days=-20_000), timedelta(days=-2), timedelta(days=2)])
def test_a_clock_that_is_wrong_is_told_and_the_token_stays_good(registry: Registry, out: Path, off: timedelta) -> None:
    assert "set the clock, and try again" in failed(registry, out, now=lambda: wire.now() + off)
    assert enroll(registry.url, registry.token, out) == "cam-1"


def test_the_command_says_what_it_has_done(registry: Registry, out: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "edgecase_agent",
            "enroll",
            "--hub",
            registry.url,
            "--token",
            registry.token,
            "--out",
            out,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ,
    )
    assert done.stdout == f"cam-1 is enrolled; its key and certificate are in {out}\n"
    registry.deny("this token was used already")
    again = process(registry, out.with_name("again"))
    _, said = again.communicate(timeout=60)
    assert (again.returncode, said) == (2, "error: this token was used already\n")
