"""The devices that may connect: each with a password of its own, known to the broker, and a folder to take along."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
import structlog

from edgecase_cloud import broker, durable, private, services
from edgecase_cloud.catalogue import Device, Event
from edgecase_cloud.errors import Unusable
from edgecase_cloud.services import Services
from edgecase_cloud.settings import CloudSettings
from edgecase_models import wire

log = structlog.get_logger()


class DeviceError(Unusable):
    """The device cannot be added as asked; the message says what stands in the way."""


def add(parts: Services, device: str, root: bytes, now: datetime, out: Path | None = None) -> Path:
    """Add a device and give the folder that it needs to enrol; `root` is the trust root of the releases.

    A running broker knows the device when this returns. Cut off at any point, it can be called again.
    """
    if not wire.DEVICE_ID.fullmatch(device):
        raise DeviceError(f"device id {device!r} must be 1 to 64 of a-z, 0-9, '_' and '-'")
    folder = enrolment_folder(parts.settings, device)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeviceError(f"{out} is not an empty folder; name one that does not exist yet with --out")
    with parts.catalogue.session() as session:
        if session.get(Device, device) is not None:
            raise DeviceError(f"device {device} exists already; its enrolment is in {folder}")
    password = private.secret(_password_file(parts.settings, device), 24)
    write_enrolment(folder, parts.settings, device, password, root)
    with parts.catalogue.writing.begin() as session:
        digest = hashlib.sha256(password.encode()).hexdigest()
        session.add(Device(id=device, added_at=now, password_sha256=digest))
        session.add(Event(at=now, kind="device added", subject=device, detail={}))
    tell_broker(parts)
    if out is not None:
        shutil.copytree(folder, out, dirs_exist_ok=True)
        return out
    return folder


def every(parts: Services) -> Sequence[Device]:
    """All devices, by id."""
    with parts.catalogue.session() as session:
        return session.scalars(sa.select(Device).order_by(Device.id)).all()


def enrolment_folder(settings: CloudSettings, device: str) -> Path:
    """Where the cloud keeps what a device was given."""
    return settings.path("devices", device)


def write_enrolment(folder: Path, settings: CloudSettings, device: str, password: str, root: bytes) -> None:
    """The folder of a device: where to go (device.toml), its password, and what it trusts (root.json)."""
    private.folder(folder.parent)
    private.folder(folder)
    durable.write(folder / "device.toml", _device_toml(settings, device).encode())
    durable.write(folder / "password", password.encode(), mode=0o600)
    durable.write(folder / "root.json", root)


def refresh_enrolments(parts: Services) -> None:
    """Bring the addresses in the kept folders up to date; ports may have changed since a device was added."""
    for device in every(parts):
        file = enrolment_folder(parts.settings, device.id) / "device.toml"
        text = _device_toml(parts.settings, device.id)
        if file.is_file() and file.read_text() != text:
            durable.write(file, text.encode())


def broker_users(parts: Services) -> list[broker.User]:
    """Everybody that the broker lets in."""
    keys = parts.settings.path("keys")
    users = [
        broker.ingest_user(private.secret(keys / broker.INGEST_KEY)),
        broker.probe_user(private.secret(keys / broker.PROBE_KEY)),
    ]
    for device in every(parts):
        file = _password_file(parts.settings, device.id)
        if file.is_file():
            users.append(broker.device_user(device.id, file.read_text().strip()))
        else:
            log.warning("password missing", device=device.id, file=str(file))
    return users


def write_broker_configuration(parts: Services) -> Path:
    """The broker's configuration as the catalogue has it now."""
    settings = parts.settings
    file = private.folder(settings.path("broker")) / "nats.conf"
    text = broker.configuration(
        broker_users(parts),
        host=settings.host,
        mqtt_port=settings.mqtt_port,
        max_store_bytes=settings.broker_store_bytes,
    )
    durable.write(file, text.encode(), mode=0o600)  # the passwords stand in it
    return file


def tell_broker(parts: Services) -> None:
    """Let a running broker know the devices of the catalogue; without one this writes the file that it will start with."""
    with durable.exclusive(parts.settings.path("broker.lock")):  # two writers at once could forget one's device
        write_broker_configuration(parts)
        running = services.running_endpoints(parts.settings.data)
        if running is not None:
            broker.reload(running.pids["broker"])


def is_accepted(settings: CloudSettings, device: str) -> bool:
    """Whether the running broker lets the device in."""
    password = _password_file(settings, device).read_text().strip()
    return broker.accepts(settings.host, settings.mqtt_port, device, password)


def _password_file(settings: CloudSettings, device: str) -> Path:
    return settings.path("keys", "devices", device)


def _device_toml(settings: CloudSettings, device: str) -> str:
    values = {
        "device": device,
        "mqtt_host": settings.host,
        "mqtt_port": settings.mqtt_port,
        "mqtt_username": device,
        "hub_url": settings.hub_url,
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
