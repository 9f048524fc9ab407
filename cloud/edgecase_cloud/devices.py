"""The devices that may connect: added with a token, enrolled with a key of their own, renewed by that key, and shut out by revoking."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import msgspec
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from edgecase_cloud import broker, durable, private, services
from edgecase_cloud.audit import Changed, Refusal, Refused
from edgecase_cloud.authority import Authority, BadRequest, key_digest, requested_key
from edgecase_cloud.catalogue import Catalogue, Device, Event
from edgecase_cloud.errors import Unusable
from edgecase_cloud.services import Services
from edgecase_models import enrolment, wire


class DeviceError(Unusable):
    """The device cannot be added or revoked as asked; the message says what stands in the way."""


@dataclass
class Denied(Exception):
    """A device does not get what it asked for: what it is told, and what the audit log is told."""

    detail: str
    refusal: Refusal

    def __str__(self) -> str:
        return self.detail


class Standing(StrEnum):
    """How a device is enrolled. Only an ENROLLED one is let in."""

    OUTSIDE = "not enrolled"  # added by an earlier version, with a password
    INVITED = "invited"
    LAPSED = "invitation lapsed"
    ENROLLED = "enrolled"
    EXPIRED = "certificate expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Invitation:
    """What a device needs to enrol, for once; it cannot be shown again."""

    device: str
    token: enrolment.Token
    expires_at: datetime
    hub_url: str

    @property
    def command(self) -> str:
        """To be run on the device."""
        return f"edgecase-agent enroll --hub {self.hub_url} --token {self.token} --out {self.device}"


def standing(row: Device, now: datetime) -> Standing:
    """How a device is enrolled at a moment."""
    if row.revoked_at is not None:
        return Standing.REVOKED
    if row.key_sha256:
        ends = row.certificate_expires_at
        return Standing.ENROLLED if ends is not None and now < ends else Standing.EXPIRED
    if row.token_expires_at is None:
        return Standing.OUTSIDE
    return Standing.INVITED if now < row.token_expires_at else Standing.LAPSED


def add(parts: Services, device: str, now: datetime) -> Invitation:
    """Let a device enrol within `token_s`. Whatever it was before, its older tokens and certificates are good for nothing now.

    Raises `DeviceError` for one that is enrolled: it would be shut out.
    """
    if not wire.DEVICE_ID.fullmatch(device):
        raise DeviceError(f"device id {device!r} must be 1 to 64 of a-z, 0-9, '_' and '-'")
    token = enrolment.Token(secrets.token_hex(20), an_authority(parts).digest)
    expires_at = now + timedelta(seconds=parts.settings.token_s)
    with parts.catalogue.writing.begin() as session:
        row = session.get(Device, device)
        if row is None:
            row = Device(id=device, added_at=now)
            session.add(row)
        elif standing(row, now) is Standing.ENROLLED:
            raise DeviceError(
                f"{device} is enrolled until {row.certificate_expires_at:%Y-%m-%d}; to enrol it anew, shut it out first: "
                f"edgecase-cloud device revoke {device} --data {parts.settings.data}"
            )
        row.enrolment, row.key_sha256 = secrets.token_hex(16), ""
        row.token_sha256, row.token_expires_at = enrolment.digest_of(token.secret), expires_at
        row.certificate_expires_at = row.revoked_at = None
        session.add(Event(at=now, kind=Changed.ADDED, subject=device, detail={"expires_at": expires_at.isoformat()}))
    tell_broker(parts, now)
    return Invitation(device, token, expires_at, parts.settings.hub_url)


def enrol(parts: Services, asked: enrolment.EnrolmentRequest, root: bytes, now: datetime) -> enrolment.Answer:
    """Take a token for a certificate; `root` is the trust root of the releases. A running broker is told when this returns.

    Asked again with the same key while the token lives, it answers again. Raises `Denied`.
    """
    with _wanted(parts.catalogue, Device.token_sha256 == enrolment.digest_of(asked.secret)) as (session, row):
        if row is None or standing(row, now) is Standing.REVOKED:
            raise _denied(Refused.TOKEN, row, "unknown", "the cloud does not know this token; add the device again")
        key = _key(asked.csr, row)
        digest = key_digest(key)
        if row.key_sha256 not in {"", digest}:
            why = "this token was used already; if not by this device, revoke the device at once"
            raise _denied(Refused.TOKEN, row, "used", why)
        if row.token_expires_at is None or now >= row.token_expires_at:
            raise _denied(Refused.TOKEN, row, "expired", "this token is no longer good; add the device again")
        if session.scalar(sa.select(Device.id).where(Device.key_sha256 == digest, Device.id != row.id)):
            raise _denied(Refused.REQUEST, row, "key of another device", "another device has this key; make one anew")
        row.key_sha256 = digest
        certificate = _certify(parts, row, key, now)
        session.add(_event(now, Changed.ENROLLED, row))
    tell_broker(parts, now)
    return _answer(parts, row.id, certificate, root)


def renew(parts: Services, asked: enrolment.RenewalRequest, root: bytes, now: datetime) -> enrolment.Answer:
    """Another certificate for a key that has one which did not end and was not revoked. Raises `Denied`."""
    key = _key(asked.csr, None)
    with _wanted(parts.catalogue, Device.key_sha256 == key_digest(key)) as (session, row):
        if row is None:
            raise _denied(
                Refused.RENEWAL, row, "unknown key", "the cloud knows no device with this key; enrol it again"
            )
        if (found := standing(row, now)) is not Standing.ENROLLED:
            raise _denied(Refused.RENEWAL, row, found.value, f"{row.id}: {found}; add the device again, and enrol it")
        certificate = _certify(parts, row, key, now)
        session.add(_event(now, Changed.RENEWED, row))
    return _answer(parts, row.id, certificate, root)


def revoke(parts: Services, device: str, now: datetime) -> None:
    """Shut a device out: a running broker cuts it off, and it gets no other certificate before it is added again."""
    with parts.catalogue.writing.begin() as session:
        row = session.get(Device, device)
        if row is None:
            raise DeviceError(f"there is no device {device!r}; `edgecase-cloud device list` names those that are")
        if row.revoked_at is None:
            row.revoked_at = now
            session.add(Event(at=now, kind=Changed.REVOKED, subject=device, detail={"enrolment": row.enrolment}))
    tell_broker(parts, now)


def every(parts: Services) -> Sequence[Device]:
    """All devices, by id."""
    with parts.catalogue.session() as session:
        return session.scalars(sa.select(Device).order_by(Device.id)).all()


# The broker


def an_authority(parts: Services) -> Authority:
    """The cloud's authority; made where there is none."""
    return Authority(parts.settings.path("keys"))


def broker_users(parts: Services, now: datetime) -> list[broker.User]:
    """Everybody that the broker lets in."""
    enrolled = [row for row in every(parts) if standing(row, now) is Standing.ENROLLED]
    return [
        broker.ingest_user(),
        broker.probe_user(),
        *(broker.device_user(row.id, row.enrolment) for row in enrolled),
    ]


def broker_configuration(parts: Services, now: datetime) -> str:
    """The broker's configuration as the catalogue has it now."""
    settings, authority = parts.settings, an_authority(parts)
    credential = authority.for_server(settings.path("keys", broker.CREDENTIAL), [settings.host, "localhost"], now)
    return broker.configuration(
        broker_users(parts, now),
        host=settings.host,
        mqtt_port=settings.mqtt_port,
        credential=credential,
        authority=authority.path,
        max_store_bytes=settings.broker_store_bytes,
    )


def write_broker_configuration(parts: Services, now: datetime) -> Path:
    """The file that the broker reads, brought up to date."""
    file = private.folder(parts.settings.path("broker")) / "nats.conf"
    durable.write(file, broker_configuration(parts, now).encode(), mode=0o600)
    return file


def tell_broker(parts: Services, now: datetime) -> None:
    """Let a running broker know who is enrolled now; without one this writes the file that it will start with."""
    with durable.exclusive(parts.settings.path("broker.lock")):  # two writers at once could forget one's device
        write_broker_configuration(parts, now)
        running = services.running_endpoints(parts.settings.data)
        pid = running.pids.get("broker") if running is not None else None
        if pid is not None:  # else none runs just now: it reads the file when it starts
            broker.reload(pid)


# Certificates


@contextmanager
def _wanted(catalogue: Catalogue, condition: sa.ColumnElement[bool]) -> Iterator[tuple[Session, Device | None]]:
    """The device, in a transaction that may change it; a stranger makes nobody wait who writes."""
    wanted = sa.select(Device).where(condition)
    with catalogue.session() as session:
        known = session.scalar(wanted) is not None
    with (catalogue.writing if known else catalogue.session).begin() as session:
        yield session, session.scalar(wanted)


def _key(csr: str, row: Device | None) -> ec.EllipticCurvePublicKey:
    try:
        return requested_key(csr)
    except BadRequest as error:
        raise _denied(Refused.REQUEST, row, "bad request", str(error)) from error


def _certify(parts: Services, row: Device, key: ec.EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
    life = timedelta(days=parts.settings.certificate_days)
    certificate = an_authority(parts).for_device(key, row.id, row.enrolment, life, now)
    row.certificate_expires_at = certificate.not_valid_after_utc
    return certificate


def _answer(parts: Services, device: str, certificate: x509.Certificate, root: bytes) -> enrolment.Answer:
    authority, settings = an_authority(parts), parts.settings
    enrolled = enrolment.Enrolled(
        device=device,
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        authority=authority.pem.decode(),
        root=root.decode(),
        mqtt_host=settings.host,
        mqtt_port=settings.mqtt_port,
    )
    said = msgspec.json.encode(enrolled)
    return enrolment.Answer(enrolled=said.decode(), signature=authority.sign(said))


def _event(now: datetime, kind: Changed, row: Device) -> Event:
    assert row.certificate_expires_at is not None
    detail = {"key_sha256": row.key_sha256, "expires_at": row.certificate_expires_at.isoformat()}
    return Event(at=now, kind=kind, subject=row.id, detail=detail)


def _denied(kind: Refused, row: Device | None, reason: str, detail: str) -> Denied:
    return Denied(detail, Refusal(kind, "" if row is None else row.id, reason, {}, proven=row is not None))
