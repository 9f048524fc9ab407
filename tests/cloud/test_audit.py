"""What the audit log promises: whoever is turned away stands in it, with the reason, and nobody can fill it or speak for another."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from edgecase_cloud import audit
from edgecase_cloud.audit import BURST, EVERY_S, Audit, Refusal, Refused
from edgecase_cloud.authority import Authority
from edgecase_cloud.broker import accepts
from edgecase_cloud.broker_log import BrokerLog, Reader
from edgecase_cloud.services import Services
from support.broker import Broker
from support.cloud import NOW
from support.identities import an_identity
from support.wait import until

PID = 42


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audited(parts: Services, clock: Clock) -> Audit:
    return Audit(parts.catalogue, clock)


def a_refusal(subject: str = "", reason: str = "no certificate", *, proven: bool = False) -> Refusal:
    return Refusal(Refused.CERTIFICATE, subject, reason, {"address": "127.0.0.1"}, proven)


# How much is written


def test_a_flood_is_written_down_in_a_trickle_that_says_what_it_left_out(
    audited: Audit, parts: Services, clock: Clock
) -> None:
    recorded = sum(audited.refused(a_refusal(f"name-{number}"), NOW) for number in range(1000))
    assert recorded == BURST
    clock.now_s = EVERY_S
    assert audited.refused(a_refusal(), NOW)
    assert not audited.refused(a_refusal(), NOW)
    events = audit.latest(parts.catalogue, 100)
    assert len(events) == BURST + 1
    assert (events[-1].detail["unsaid_before"], events[0].detail) == (
        1000 - BURST,
        {"reason": "no certificate", "address": "127.0.0.1"},
    )


def test_a_flood_hides_no_other_reason_and_no_device_that_is_proven(audited: Audit, parts: Services) -> None:
    for number in range(100):
        audited.refused(a_refusal(f"name-{number}"), NOW)
        audited.refused(a_refusal("cam-1", "revoked or replaced", proven=True), NOW)
    assert audited.refused(a_refusal(reason="expired"), NOW)
    assert audited.refused(a_refusal("cam-2", "revoked or replaced", proven=True), NOW)


# What the broker says


def line(said: str, *, pid: int = PID, connection: str = "mid:5", client: str = "", level: str = "ERR") -> str:
    named = f'"{client}" - ' if client else ""
    return f"[{pid}] 2026/11/26 13:38:22.309514 [{level}] 127.0.0.1:39955 - {connection} - {named}{said}"


TLS = "TLS handshake error: tls: failed to verify certificate: x509: certificate "


@pytest.mark.parametrize(
    ("said", "subject", "reason"),
    [
        ("TLS handshake error: tls: client didn't provide a certificate", "", "no certificate"),
        ("TLS handshake error: tls: first record does not look like a TLS handshake", "", "no TLS"),
        (
            TLS + "has expired or is not yet valid: x (SERIALNUMBER=0a,CN=cam-1 SHA-256: 0; CN=edgecase SHA)",
            "cam-1",
            "expired",
        ),
        (TLS + 'signed by unknown authority (possibly "edgecase") (CN=cam-1 SHA-256: 0)', "cam-1", "another authority"),
        (TLS + "signed by unknown authority (CN=<b>../x SHA-256: 0)", "", "another authority"),
        ("TLS handshake error: remote error: tls: unknown certificate authority", "", "handshake failed"),
        ('User in cert ["SERIALNUMBER=0a,CN=cam-1"], not found', "cam-1", "revoked or replaced"),
    ],
)
def test_why_somebody_did_not_get_in_is_read_from_the_log(said: str, subject: str, reason: str) -> None:
    refusal = Reader().read(line(said), PID)
    assert refusal is not None
    assert (refusal.kind, refusal.subject, refusal.reason) == (Refused.CERTIFICATE, subject, reason)
    assert refusal.proven == (reason == "revoked or replaced")


@pytest.mark.parametrize(
    "said",
    [
        "TLS handshake error: EOF",
        "TLS handshake error: read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer",
        "Client connection created",
        "TLS handshake complete",
        "authentication error",
    ],
)
def test_what_is_no_refusal_or_told_elsewhere_is_none(said: str) -> None:
    assert Reader().read(line(said), PID) is None


def test_a_refused_topic_is_told_of_who_owns_the_connection_whatever_it_calls_itself() -> None:
    reader = Reader()
    match = 'Using DistinguishedNameMatch for auth ["SERIALNUMBER=0a,CN=cam-1"]'
    reader.read(line(match, client=r"\" - Using DistinguishedNameMatch for auth [\"CN=victim\"]", level="DBG"), PID)
    violation = line('Publish Violation - Subject "edgecase.1.up.victim.offer"', client="victim")
    refusal = reader.read(violation, PID)
    assert refusal is not None
    assert (refusal.kind, refusal.subject, refusal.reason) == (Refused.TOPIC, "cam-1", "publish")
    assert refusal.detail["topic"] == "edgecase/1/up/victim/offer"
    reader.read(line("Client connection closed: Client Closed", level="DBG"), PID)
    after = reader.read(violation, PID)
    assert after is not None
    assert after.subject == ""


def test_lines_that_a_stranger_wrote_into_the_log_count_for_nothing() -> None:
    """The name on a certificate of anybody's making may hold line breaks, which the broker writes as they are."""
    forged = line('Publish Violation - Subject "edgecase.1.up.victim.offer"', pid=PID + 1)
    reader = Reader()
    said = [reader.read(each, PID) for each in line(f"{TLS}signed by unknown authority (CN=a\n{forged}\n)").split("\n")]
    assert [refusal and refusal.reason for refusal in said] == ["another authority", None, None]


def test_the_log_is_followed_from_where_it_ends_and_begins_anew_when_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "broker.log"
    refused = line("TLS handshake error: tls: client didn't provide a certificate").encode() + b"\n"
    path.write_bytes(refused)
    followed = BrokerLog(path, max_bytes=1000)
    assert list(followed.step(PID)) == []
    with path.open("ab") as log:  # as the broker holds it
        log.write(refused + refused[:20])
        log.flush()
        assert len(list(followed.step(PID))) == 1
        log.write(refused[20:])
        log.flush()
        assert len(list(followed.step(PID))) == 1, "a line in two parts"
        log.write(refused * 10)
        log.flush()
        assert len(list(followed.step(PID))) == 10
        assert path.stat().st_size == 0
        log.write(refused)
        log.flush()
        assert len(list(followed.step(PID))) == 1
    path.rename(tmp_path / "broker.log.1")
    path.write_bytes(refused * 4)
    assert len(list(followed.step(PID))) == 4, "another file, begun at a start of the broker"
    path.unlink()
    assert list(followed.step(PID)) == []


# A real broker


def test_every_refusal_of_a_real_broker_is_read_with_its_reason(broker: Broker, tmp_path: Path) -> None:
    assert broker.process is not None
    followed = BrokerLog(broker.log, 1 << 30)
    ours, rogue = broker.authority, Authority(tmp_path / "rogue")
    device = broker.device_client("audit-cam")
    for folder in (
        an_identity(tmp_path / "1", rogue, "audit-cam", believes=ours),
        an_identity(tmp_path / "2", ours, "audit-cam", life=timedelta(days=1), ago=timedelta(days=2)),
        an_identity(tmp_path / "3", ours, "audit-cam", "replaced"),
    ):
        assert not broker.accepts(folder)
    nobody = ssl.create_default_context(cafile=ours.path)
    assert not accepts(broker.host, broker.port, nobody)
    device.send("edgecase/1/up/another/offer", b"forged")
    assert not device.subscribed("edgecase/1/down/another/#")
    device.leave()
    pid, seen = broker.process.pid, []

    def reasons() -> set[tuple[str, str]]:
        seen.extend(followed.step(pid))
        return {(refusal.subject, refusal.reason) for refusal in seen}

    whys = ("another authority", "expired", "revoked or replaced", "publish", "subscribe")
    until(lambda: reasons() >= {("", "no certificate"), *(("audit-cam", why) for why in whys)}, what="the refusals")
