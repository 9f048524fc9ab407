"""The cloud's services for one command: those of the cloud that runs, or, where none runs, the store alone for as long as it takes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgecase_cloud import durable, private, processes, services, weed
from edgecase_cloud.durable import Busy
from edgecase_cloud.errors import Unusable
from edgecase_cloud.services import Services
from edgecase_cloud.store import StoreError

_READY_WITHIN_S: Final = 30.0


class Occupied(Unusable):
    """A cloud runs, or begins to, on this data folder."""


@contextlib.contextmanager
def with_store(data: Path) -> Iterator[Services]:
    """Services whose store answers. Where no cloud runs, no other can start until this is left."""
    if services.running_endpoints(data) is not None:
        yield services.open_folder(data)
        return
    services.open_folder(data)  # says so where there is no cloud at all
    with alone(data) as parts:
        yield parts


@contextlib.contextmanager
def alone(data: Path) -> Iterator[Services]:
    """Services with a store of their own on a free port; `Occupied` where a cloud runs on the folder."""
    try:
        with durable.exclusive(data / services.LOCK, wait=False), _store(data) as parts:
            yield parts
    except Busy as error:
        raise Occupied(f"a cloud runs on {data} already; leave out --here, and its learning worker does it") from error


@contextlib.contextmanager
def _store(data: Path) -> Iterator[Services]:
    chosen = services.effective_settings(data)
    chosen = chosen.model_copy(update={"s3_port": processes.free_port(chosen.host)})
    parts = services.open_services(chosen, create=True)
    folder = private.folder(data / "store")
    private.folder(data / "logs")
    command = weed.command(folder, weed.keys(data / "keys"), host=chosen.host, s3_port=chosen.s3_port)
    log = data / "logs" / "store.log"
    process = processes.start(command, log=log, folder=folder)
    try:
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while not _serves(parts):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise Unusable(f"the object store does not start; see {log}")
            time.sleep(0.1)
        yield parts
    finally:
        processes.stop(process, 5.0)


def _serves(parts: Services) -> bool:
    key, content = f"probe/{os.getpid()}", b"is a volume there?"
    try:
        parts.store.ensure_bucket()
        parts.store.put(key, content)
        return parts.store.get(key) == content
    except StoreError:
        return False
