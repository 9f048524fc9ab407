"""What identity promises: a token is good for once, a certificate for its days and its key, and who is revoked is out at once."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from edgecase_cloud import broker, devices, durable, migrations, services
from edgecase_cloud.audit import Refused
from edgecase_cloud.authority import Authority
from edgecase_cloud.catalogue import Catalogue, Device, Event
from edgecase_cloud.devices import Denied, DeviceError, Standing
from edgecase_cloud.services import Services
from edgecase_cloud.store import ObjectStore
from edgecase_models import wire
from edgecase_models.enrolment import Answer, Enrolled, EnrolmentRequest, RenewalRequest, Token
from support.cloud import NOW, Cloud, make_services, shot
from support.identities import Key, a_key, a_request, an_identity, context_of, enrolled, key_of, renew
from support.wait import until

ROOT = b'{"signed": {}}'
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def parts(tmp_path: Path) -> Services:
    return make_services(tmp_path, ObjectStore("http://127.0.0.1:1", "", ""))


def names(parts: Services, now: Any = NOW) -> list[str]:
    return [user.subject for user in devices.broker_users(parts, now)]


def row_of(parts: Services, device: str = "cam-1") -> Device:
    with parts.catalogue.session() as session:
        return session.get_one(Device, device)


def events(parts: Services) -> list[str]:
    with parts.catalogue.session() as session:
        return list(session.scalars(sa.select(Event.kind).order_by(Event.id)))


def enrol(parts: Services, token: Token, key: Key, now: Any = NOW) -> Enrolled:
    answer = devices.enrol(parts, EnrolmentRequest(secret=token.secret, csr=a_request(key)), ROOT, now)
    return said(answer)


def said(answer: Answer) -> Enrolled:
    return msgspec.json.decode(answer.enrolled, type=Enrolled)


def an_enrolled(parts: Services, device: str = "cam-1") -> tuple[Key, Enrolled]:
    key = a_key()
    return key, enrol(parts, devices.add(parts, device, NOW).token, key)


def denied(parts: Services, token: Token, csr: str | None = None, now: Any = NOW) -> devices.Denied:
    with pytest.raises(Denied) as caught:
        devices.enrol(parts, EnrolmentRequest(secret=token.secret, csr=csr or a_request()), ROOT, now)
    return caught.value


# Adding


def test_an_invitation_names_the_authority_and_is_kept_as_a_digest_only(parts: Services, tmp_path: Path) -> None:
    invited = devices.add(parts, "cam-1", NOW)
    assert invited.token.authority == devices.an_authority(parts).digest
    assert Token.parse(str(invited.token)) == invited.token
    row = row_of(parts)
    assert row.token_sha256 == hashlib.sha256(invited.token.secret.encode()).hexdigest()
    assert devices.standing(row, NOW) is Standing.INVITED
    parts.catalogue.close()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in kept if invited.token.secret.encode() in path.read_bytes()] == []
    assert names(parts) == ["CN=@ingest", "CN=@probe"], "not before it has enrolled"


@pytest.mark.parametrize("device", ["", "../x", "a/b", "Cam", "site.cam", "cam+1", "x" * 65, "\x00", "@ingest"])
def test_an_id_that_could_reach_beyond_itself_is_refused(parts: Services, device: str) -> None:
    with pytest.raises(DeviceError, match="must be 1 to 64"):
        devices.add(parts, device, NOW)
    assert devices.every(parts) == []


def test_a_device_that_is_enrolled_is_not_given_away_again(parts: Services) -> None:
    an_enrolled(parts)
    before = names(parts)
    with pytest.raises(DeviceError, match=r"is enrolled until .* edgecase-cloud device revoke cam-1"):
        devices.add(parts, "cam-1", NOW)
    assert names(parts) == before


def test_a_token_that_was_lost_is_replaced_by_adding_again(parts: Services) -> None:
    lost, second = devices.add(parts, "cam-1", NOW).token, devices.add(parts, "cam-1", NOW).token
    assert denied(parts, lost).refusal.reason == "unknown"
    assert enrol(parts, second, a_key()).device == "cam-1"


def test_a_device_of_an_earlier_version_is_outside_until_it_is_added_again(parts: Services) -> None:
    with parts.catalogue.session.begin() as session:
        session.add(Device(id="cam-1", added_at=NOW))
    assert devices.standing(row_of(parts), NOW) is Standing.OUTSIDE
    assert len(names(parts)) == 2
    an_enrolled(parts)
    assert len(names(parts)) == 3


# Enrolling


def test_a_token_gives_a_certificate_for_the_devices_own_key_and_the_broker_is_told(parts: Services) -> None:
    key, told = an_enrolled(parts)
    assert (told.device, told.root, told.mqtt_host, told.mqtt_port) == ("cam-1", ROOT.decode(), "127.0.0.1", 8701)
    authority = devices.an_authority(parts)
    assert told.authority.encode() == authority.pem
    certificate = x509.load_pem_x509_certificate(told.certificate.encode())
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == "cam-1"
    assert certificate.not_valid_after_utc == NOW + 30 * DAY == row_of(parts).certificate_expires_at
    assert names(parts)[2:] == [f"SERIALNUMBER={row_of(parts).enrolment},CN=cam-1"]
    assert names(parts)[2] in parts.settings.path("broker", "nats.conf").read_text()
    assert parts.settings.path("broker", "nats.conf").stat().st_mode & 0o777 == 0o600
    assert events(parts) == ["device added", "device enrolled"]


def test_what_a_request_calls_itself_counts_for_nothing(parts: Services) -> None:
    an_enrolled(parts, "cam-2")
    token = devices.add(parts, "cam-1", NOW).token
    request = EnrolmentRequest(secret=token.secret, csr=a_request(name="cam-2"))
    certificate = x509.load_pem_x509_certificate(said(devices.enrol(parts, request, ROOT, NOW)).certificate.encode())
    assert certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == "cam-1"


def test_a_device_that_got_no_answer_asks_again_with_the_same_token_and_key(parts: Services) -> None:
    token, key = devices.add(parts, "cam-1", NOW).token, a_key()
    first, again = enrol(parts, token, key), enrol(parts, token, key, NOW + MINUTE)
    assert first.device == again.device == "cam-1"
    assert len(names(parts)) == 3


def test_a_token_is_good_for_one_key_for_its_time_and_for_nothing_else(parts: Services) -> None:
    token, key = devices.add(parts, "cam-1", NOW).token, a_key()
    enrol(parts, token, key)
    used = denied(parts, token)
    assert "used already" in used.detail
    late = denied(parts, token, a_request(key), NOW + DAY)
    unknown = denied(parts, Token("0" * 40, token.authority))
    assert [d.refusal.reason for d in (used, late, unknown)] == ["used", "expired", "unknown"]
    assert [d.refusal.subject for d in (used, late, unknown)] == ["cam-1", "cam-1", ""]
    assert {d.refusal.kind for d in (used, late, unknown)} == {Refused.TOKEN}


def test_a_key_belongs_to_one_device(parts: Services) -> None:
    key, _ = an_enrolled(parts)
    token = devices.add(parts, "cam-2", NOW).token
    assert denied(parts, token, a_request(key)).refusal.reason == "key of another device"
    assert enrol(parts, token, a_key()).device == "cam-2", "the token is still good"


def bad_requests() -> dict[str, str]:
    tampered = a_request().splitlines()
    tampered[3] = tampered[3][:10] + ("A" if tampered[3][10] != "A" else "B") + tampered[3][11:]
    return {
        "empty": "",
        "no PEM": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "not ASCII": "\u202e" * 10,
        "tampered": "\n".join(tampered),
        "another curve": a_request(ec.generate_private_key(ec.SECP384R1())),
        "RSA": a_request(rsa.generate_private_key(65537, 2048)),
    }


@pytest.mark.parametrize("name", ["empty", "no PEM", "not ASCII", "tampered", "another curve", "RSA"])
def test_a_request_that_proves_no_key_of_ours_is_refused_and_the_token_stays_good(parts: Services, name: str) -> None:
    token = devices.add(parts, "cam-1", NOW).token
    refusal = denied(parts, token, bad_requests()[name] or "\n").refusal
    assert (refusal.kind, refusal.subject, refusal.reason) == (Refused.REQUEST, "cam-1", "bad request")
    assert enrol(parts, token, a_key()).device == "cam-1"


def test_devices_that_enrol_at_once_are_all_known_to_the_broker(parts: Services) -> None:
    tokens = [devices.add(parts, f"cam-{n}", NOW).token for n in range(6)]
    threads = [threading.Thread(target=enrol, args=(parts, token, a_key())) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = parts.settings.path("broker", "nats.conf").read_text()
    assert [name for name in names(parts) if f'"{name}"' not in text] == []
    assert len(names(parts)) == 8


# Renewing, ending, revoking


def test_a_key_renews_its_certificate_under_the_same_name(parts: Services) -> None:
    key, first = an_enrolled(parts)
    before, later = names(parts), NOW + 20 * DAY
    second = said(devices.renew(parts, RenewalRequest(csr=a_request(key)), ROOT, later))
    old, new = (x509.load_pem_x509_certificate(each.certificate.encode()) for each in (first, second))
    assert new.subject == old.subject
    assert new.not_valid_after_utc == later + 30 * DAY
    assert names(parts, NOW + 40 * DAY) == before
    assert events(parts)[-1] == "certificate renewed"


def test_who_has_ended_was_revoked_or_is_not_known_renews_nothing(parts: Services) -> None:
    key, _ = an_enrolled(parts)

    def reason(key: Key, now: Any) -> str:
        with pytest.raises(Denied) as caught:
            devices.renew(parts, RenewalRequest(csr=a_request(key)), ROOT, now)
        assert caught.value.refusal.kind is Refused.RENEWAL
        return caught.value.refusal.reason

    assert reason(a_key(), NOW) == "unknown key"
    assert reason(key, NOW + 30 * DAY) == "certificate expired"
    devices.revoke(parts, "cam-1", NOW)
    assert reason(key, NOW) == "revoked"


def test_a_certificate_that_has_ended_makes_no_user_of_the_broker(parts: Services) -> None:
    an_enrolled(parts)
    assert len(names(parts, NOW + 30 * DAY - MINUTE)) == 3
    assert len(names(parts, NOW + 30 * DAY)) == 2
    assert devices.standing(row_of(parts), NOW + 30 * DAY) is Standing.EXPIRED
    devices.add(parts, "cam-1", NOW + 30 * DAY)
    assert devices.standing(row_of(parts), NOW + 30 * DAY) is Standing.INVITED


def test_who_was_revoked_and_added_again_is_let_in_with_the_new_certificate_only(parts: Services) -> None:
    an_enrolled(parts)
    first = names(parts)[2]
    token = row_of(parts).token_sha256
    devices.revoke(parts, "cam-1", NOW)
    devices.revoke(parts, "cam-1", NOW + MINUTE)
    assert names(parts)[2:] == []
    assert (row_of(parts).revoked_at, row_of(parts).token_sha256) == (NOW, token)
    assert events(parts).count("device revoked") == 1
    an_enrolled(parts)
    assert len(names(parts)) == 3
    assert names(parts)[2] != first
    assert first not in parts.settings.path("broker", "nats.conf").read_text()


def test_a_token_of_a_device_that_is_revoked_is_worth_nothing(parts: Services) -> None:
    token = devices.add(parts, "cam-1", NOW).token
    devices.revoke(parts, "cam-1", NOW)
    assert denied(parts, token).refusal.kind is Refused.TOKEN


def test_revoking_who_is_not_there_is_said(parts: Services) -> None:
    with pytest.raises(DeviceError, match="there is no device 'cam-9'"):
        devices.revoke(parts, "cam-9", NOW)


# Against a running cloud


def test_a_device_that_is_added_while_the_cloud_runs_delivers_at_once(cloud: Cloud) -> None:
    device = cloud.device("added-live")
    device.deliver(shot("added-live"))
    device.leave()
    listed = {entry["id"]: entry for entry in json.loads(cloud.run("device", "list", "--json").stdout)}
    assert listed["added-live"]["standing"] == "enrolled"
    assert listed["added-live"]["certificate_expires_at"] > wire.now().isoformat()
    assert "enrolled" in cloud.run("device", "list").stdout


def test_a_device_reads_and_writes_only_its_own_in_a_running_cloud(cloud: Cloud) -> None:
    thief, victim = cloud.device("live-thief"), cloud.device("live-victim")
    frame = shot("live-victim")
    thief.client.send(wire.up_topic("live-victim", wire.Offer), wire.encode(frame.offer))  # the broker drops it
    thief.client.send(wire.up_topic("live-thief", wire.Offer), wire.encode(frame.offer))  # ingest drops it
    assert not thief.client.subscribed("edgecase/1/down/live-victim/#")
    until(lambda: reasons(cloud, "live-thief") >= {"publish", "subscribe", "claims another device"}, what="its audit")
    assert victim.everything() == []
    assert thief.everything() == []
    thief.leave()
    victim.leave()


def test_who_is_revoked_is_cut_off_at_once_and_let_in_again_only_when_enrolled_again(cloud: Cloud) -> None:
    device = cloud.device("revoked-live")
    device.deliver(shot("revoked-live"))
    assert cloud.run("device", "revoke", "revoked-live").returncode == 0
    until(lambda: not device.client.is_connected(), what="the connection to end")
    device.leave()
    parts = cloud.services()
    address = (parts.settings.host, parts.settings.mqtt_port)
    assert not broker.accepts(*address, context_of(device.folder))
    refused = renew(cloud.endpoints.web, device.folder)
    assert (refused.status_code, "revoked" in refused.json()["detail"]) == (403, True)
    until(lambda: reasons(cloud, "revoked-live") >= {"revoked or replaced", "revoked"}, what="its audit")
    device.folder.rename(device.folder.with_name("old"))
    again = cloud.device("revoked-live")
    again.deliver(shot("revoked-live"))
    again.leave()
    assert not broker.accepts(*address, context_of(device.folder.with_name("old")))


def test_a_certificate_is_renewed_over_http_and_both_are_good_for_their_days(cloud: Cloud) -> None:
    device = cloud.device("renewed-live")
    told = enrolled(renew(cloud.endpoints.web, device.folder))
    (device.folder / "certificate.pem").write_text(told.certificate)
    parts = cloud.services()
    assert broker.accepts(parts.settings.host, parts.settings.mqtt_port, context_of(device.folder))
    device.deliver(shot("renewed-live"))
    device.leave()


def test_every_refusal_stands_in_the_audit_log(cloud: Cloud, tmp_path: Path) -> None:
    parts, day = cloud.services(), timedelta(days=1)
    ours, rogue = devices.an_authority(parts), Authority(tmp_path / "rogue")
    good = cloud.device("refused-1")
    token = devices.add(parts, "refused-2", wire.now()).token
    for folder in (
        an_identity(tmp_path / "1", rogue, "refused-1", row_of(parts, "refused-1").enrolment, believes=ours),
        an_identity(tmp_path / "2", ours, "refused-1", row_of(parts, "refused-1").enrolment, life=day, ago=2 * day),
        an_identity(tmp_path / "3", ours, "refused-1", "of another enrolment"),
    ):
        assert not broker.accepts(parts.settings.host, parts.settings.mqtt_port, context_of(folder))
    nobody = ssl.create_default_context(cafile=ours.path)
    assert not broker.accepts(parts.settings.host, parts.settings.mqtt_port, nobody)
    good.client.send("edgecase/1/up/refused-2/offer", b"forged")
    good.leave()
    stolen = a_request(key_of(good.folder))
    asked = [
        ("enrolments", {"secret": token.secret, "csr": stolen}),
        ("enrolments", {"secret": token.secret, "csr": "nothing"}),
        ("enrolments", {"secret": "0" * 40, "csr": a_request()}),
        ("renewals", {"csr": a_request()}),
    ]
    for path, body in asked:
        assert httpx.post(f"{cloud.endpoints.web}/api/v1/{path}", json=body).status_code == 403
    expected = {
        "": {"no certificate", "unknown", "unknown key"},
        "refused-1": {"another authority", "expired", "revoked or replaced", "publish"},
        "refused-2": {"key of another device", "bad request"},
    }
    until(lambda: all(reasons(cloud, who) >= whys for who, whys in expected.items()), what="all of them")
    shown = cloud.run("audit").stdout
    assert "certificate refused" in shown
    assert "refused-1" in shown


def reasons(cloud: Cloud, device: str) -> set[str]:
    """Why the audit log says that a device was refused."""
    told = json.loads(cloud.run("audit", "--last", "1000", "--json").stdout)
    return {event["detail"].get("reason", "") for event in told if event["subject"] == device}


# Whether a cloud runs


def test_endpoints_count_only_while_their_cloud_is_alive(tmp_path: Path) -> None:
    assert services.running_endpoints(tmp_path) is None
    written = '{"web": "w", "mqtt_host": "h", "mqtt_port": 1, "s3": "s", "pids": {"up": %d}}'
    (tmp_path / "endpoints.json").write_text(written % os.getpid())
    (tmp_path / "lock").touch()
    assert services.running_endpoints(tmp_path) is None, "nobody holds the lock"
    with durable.exclusive(tmp_path / services.LOCK):
        assert services.running_endpoints(tmp_path) is not None
        (tmp_path / "endpoints.json").write_text(written % (2**22 + 1))
        assert services.running_endpoints(tmp_path) is None, "a killed one wrote them; another command holds the lock"


def test_who_enrols_while_the_broker_is_being_started_again_stands_in_the_file_that_it_will_read(
    parts: Services,
) -> None:
    data = parts.settings.data
    written = {"web": "w", "mqtt_host": "h", "mqtt_port": 1, "s3": "s", "pids": {"up": os.getpid()}}
    (data / services.ENDPOINTS).write_text(json.dumps(written))
    with durable.exclusive(data / services.LOCK):
        an_enrolled(parts)
    assert row_of(parts).enrolment in (data / "broker" / "nats.conf").read_text()


def test_services_of_a_folder_without_a_cloud_say_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(services.NoData, match="start one with: edgecase-cloud up --data"):
        services.open_folder(tmp_path)


def test_services_bring_an_older_catalogue_up_to_date(tmp_path: Path) -> None:
    Catalogue.in_folder(tmp_path).engine.connect().close()  # an empty database
    opened = services.open_folder(tmp_path)
    assert migrations.version(opened.catalogue) == migrations.HEAD
