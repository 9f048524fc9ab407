"""What renewing promises: another certificate in good time, never a worse one, and a plain word where a person is needed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from edgecase_agent.enroll import enroll
from edgecase_agent.identity import Identity
from edgecase_agent.renewal import Renewal, Renewed
from edgecase_agent.update import NotDue, Offline, Refused
from edgecase_cloud.authority import Authority, requested_key
from edgecase_models import wire
from support.identities import self_made
from support.tiny_registry import Registry, running_registry

DAY = timedelta(days=1)
FILES = ("device.toml", "key.pem", "certificate.pem", "ca.pem", "root.json")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "keys") as running:
        yield running


@pytest.fixture
def identity(registry: Registry, tmp_path: Path) -> Identity:
    """One whose certificate lasts for three days from now."""
    registry.life = 3 * DAY
    enroll(registry.url, registry.token, tmp_path / "cam-1")
    registry.asked.clear()
    return Identity(tmp_path / "cam-1")


@pytest.fixture
def renewal(identity: Identity, registry: Registry) -> Renewal:
    return Renewal(identity, registry.url)


def certificate(identity: Identity) -> bytes:
    return (identity.folder / "certificate.pem").read_bytes()


def at(registry: Registry, moment: datetime) -> datetime:
    """Let it be then, for the device and for the cloud."""
    registry.clock = lambda: moment
    return moment


def test_it_is_renewed_at_two_thirds_of_its_life_and_not_before(
    renewal: Renewal, identity: Identity, registry: Registry
) -> None:
    begins, key = identity.validity().begins, (identity.folder / "key.pem").read_bytes()
    early = renewal.step(at(registry, begins + 2 * DAY - timedelta(seconds=30)), 0)
    assert early == NotDue(30)
    assert isinstance(renewal.step(at(registry, begins + 2 * DAY), 29), NotDue), "when it said"
    assert registry.asked == []
    assert renewal.step(at(registry, begins + 2 * DAY), 30) == Renewed(begins + 5 * DAY)
    assert identity.validity().ends == begins + 5 * DAY
    assert (identity.folder / "key.pem").read_bytes() == key
    identity.context()  # they still fit together
    assert sorted(path.name for path in identity.folder.iterdir()) == sorted(FILES)


def test_a_hub_that_is_away_is_asked_again_ever_later_and_the_certificate_stays(
    renewal: Renewal, identity: Identity, registry: Registry
) -> None:
    before, now, clock_s = certificate(identity), at(registry, identity.validity().renew_at), 0.0
    registry.reply = lambda _answer: (503, b"{}")
    waits: list[float] = []
    for _ in range(10):
        assert isinstance(renewal.step(now, clock_s), Offline)
        wait = renewal.step(now, clock_s)
        assert isinstance(wait, NotDue)
        waits.append(wait.wait_s)
        clock_s += wait.wait_s
    assert renewal.problem == "", "it has not ended yet"
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert certificate(identity) == before
    late = at(registry, identity.validity().ends)
    assert isinstance(renewal.step(late, clock_s), Offline)
    assert "the certificate ended at" in renewal.problem
    assert "enrol it again" in renewal.problem
    registry.reply = lambda answer: (200, answer)
    assert isinstance(renewal.step(late, clock_s + 300), Renewed)


def test_what_the_cloud_refuses_is_told_to_a_person_and_asked_again_now_and_then(
    renewal: Renewal, identity: Identity, registry: Registry
) -> None:
    now = at(registry, identity.validity().ends + DAY)
    registry.deny("cam-1: certificate expired; add the device again, and enrol it")
    assert renewal.step(now, 0) == Refused("cam-1: certificate expired; add the device again, and enrol it")
    assert isinstance(renewal.step(now, 59), NotDue)
    enrolled_anew = identity.folder.rename(identity.folder.with_name("ended"))
    registry.reply, registry.key, registry.clock = (lambda answer: (200, answer)), "", lambda: now
    assert enroll(registry.url, registry.token, identity.folder, lambda: now) == "cam-1"
    assert enrolled_anew.exists()
    assert renewal.problem
    assert isinstance(renewal.step(now, 60), NotDue), "the new one is taken up without a restart"
    assert renewal.problem == ""


@pytest.mark.parametrize("lie", ["another key", "another cloud", "no answer"])
def test_a_certificate_that_is_not_ours_takes_no_good_ones_place(
    renewal: Renewal, identity: Identity, registry: Registry, tmp_path: Path, lie: str
) -> None:
    before, now = certificate(identity), at(registry, identity.validity().renew_at)
    other = (self_made(tmp_path / "other") / "certificate.pem").read_text()
    match lie:
        case "another key":
            registry.alter = lambda said: msgspec.structs.replace(said, certificate=other)
        case "another cloud":
            registry.authority = Authority(tmp_path / "another")
        case "no answer":
            registry.reply = lambda _answer: (200, b'{"enrolled": "", "signature": ""}')
    assert isinstance(renewal.step(now, 0), Refused)
    assert certificate(identity) == before


def test_with_a_clock_that_is_ahead_the_cloud_is_not_asked_over_and_over(
    renewal: Renewal, identity: Identity, registry: Registry
) -> None:
    ahead = wire.now() + timedelta(hours=20)
    registry.life = timedelta(hours=21)
    (identity.folder / "certificate.pem").write_bytes(_short_lived(registry, identity))
    for second in range(3600):
        renewal.step(ahead + timedelta(seconds=second), second)
    assert len(registry.asked) == 1


def test_a_clock_before_the_certificate_began_is_told(renewal: Renewal, registry: Registry) -> None:
    outcome = renewal.step(datetime(1970, 1, 2, tzinfo=UTC), 0)
    assert isinstance(outcome, Refused)
    assert "the clock says 1970-01-02 00:00 UTC, before the certificate began" in outcome.why
    assert "set the clock" in outcome.why
    assert registry.asked == []


def test_a_folder_that_is_gone_is_told(renewal: Renewal, identity: Identity) -> None:
    identity.folder.rename(identity.folder.with_name("gone"))
    outcome = renewal.step(wire.now(), 0)
    assert isinstance(outcome, Refused)
    assert "certificate.pem cannot be used (No such file or directory); enrol it again" in outcome.why


def _short_lived(registry: Registry, identity: Identity) -> bytes:
    key = requested_key(identity.request())
    issued = registry.authority.for_device(key, "cam-1", "0", registry.life, wire.now())
    return issued.public_bytes(serialization.Encoding.PEM)
