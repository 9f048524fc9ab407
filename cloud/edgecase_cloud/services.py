"""What every part of the cloud is given: the settings, the catalogue and the store."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgecase_cloud import private, weed
from edgecase_cloud.catalogue import Catalogue
from edgecase_cloud.errors import Unusable
from edgecase_cloud.store import ObjectStore

if TYPE_CHECKING:
    from edgecase_cloud.settings import CloudSettings

LOCK: Final = "lock"
ENDPOINTS: Final = "endpoints.json"


class NoData(Unusable):
    """The data folder holds no cloud; say where it is."""


@dataclass(frozen=True)
class Endpoints:
    """Where a running cloud listens, and its processes by name."""

    web: str
    mqtt_host: str
    mqtt_port: int
    s3: str
    pids: dict[str, int]


@dataclass(frozen=True)
class Services:
    """Handed to ingest, the web application and the learning worker."""

    settings: CloudSettings
    catalogue: Catalogue
    store: ObjectStore


def open_services(
    settings: CloudSettings, *, create: bool = False, store_timeout_s: float = 10.0, store_attempts: int = 3
) -> Services:
    """The services of a data folder, its catalogue brought up to date. Connects to nothing yet.

    Raises `NoData` where there is no cloud in it and none is to be created.
    """
    from edgecase_cloud import migrations

    if create:
        private.folder(settings.path("keys"))
    elif not settings.path("catalogue.db").is_file():
        raise NoData(f"{settings.data} holds no cloud yet; start one with: edgecase-cloud up --data {settings.data}")
    catalogue = Catalogue.in_folder(settings.data)
    migrations.upgrade(catalogue)
    identity = weed.keys(settings.path("keys"))
    store = ObjectStore(
        settings.store_url,
        identity.access_key,
        identity.secret_key,
        timeout_s=store_timeout_s,
        attempts=store_attempts,
    )
    return Services(settings, catalogue, store)


def open_folder(data: Path) -> Services:
    """`open_services` with the settings of `data`; the ports are those of the cloud that runs on it, if one does."""
    return open_services(effective_settings(data))


def effective_settings(data: Path) -> CloudSettings:
    """The settings of `data`, with the ports that a running cloud listens at."""
    from urllib.parse import urlsplit

    from edgecase_cloud import settings

    running = running_endpoints(data)
    if running is None:
        return settings.load(data)
    return settings.load(
        data,
        host=running.mqtt_host,
        web_port=urlsplit(running.web).port,
        mqtt_port=running.mqtt_port,
        s3_port=urlsplit(running.s3).port,
    )


def running_endpoints(data: Path) -> Endpoints | None:
    """The endpoints of the cloud that runs on this folder; None where none runs or it is not ready yet."""
    try:
        with (data / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # it is held: a cloud runs
    except OSError:
        return None
    else:
        return None
    written = read_endpoints(data)
    alive = written is not None and Path("/proc", str(written.pids.get("up"))).exists()
    return written if alive else None  # else a killed one left it, and another command holds the folder


def read_endpoints(data: Path) -> Endpoints | None:
    """What the last cloud on this folder wrote, alive or not."""
    try:
        written: dict[str, Any] = json.loads((data / ENDPOINTS).read_text())
        return Endpoints(**written)
    except (OSError, ValueError, TypeError):
        return None
