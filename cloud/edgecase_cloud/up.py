"""The whole cloud on one machine: broker, store, ingest, web and learning worker, ready together and gone together."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import DatabaseError, OperationalError

from edgecase_cloud import broker, devices, durable, health, private, processes, services, weed
from edgecase_cloud.audit import Audit
from edgecase_cloud.broker_log import BrokerLog
from edgecase_cloud.errors import Unusable
from edgecase_cloud.health import Health
from edgecase_cloud.services import Endpoints, Services
from edgecase_cloud.settings import CloudSettings
from edgecase_cloud.supervisor import Child, ChildFailed, Ended, Supervisor
from edgecase_models import wire

SERVERS: Final = ("broker", "store")
WORKERS: Final = ("ingest", "web", "learn")
_READY_WITHIN_S: Final = 60.0
_TRIES_TO_START: Final = 3
_LEFTOVERS_S: Final = 8.0
_ROOM_BYTES: Final = 16 << 20  # with less, a server that is started again fails again
_WHO_MAY_COME_EVERY_S: Final = 5.0
_PORTS: Final = {"web_port": "--web-port", "mqtt_port": "--mqtt-port", "s3_port": "--s3-port"}


class CannotStart(Unusable):
    """The cloud cannot run like this; the message says why and what to do."""


class Stopped(Exception):
    """A signal asked for the end."""


@dataclass(frozen=True)
class Report:
    """What the person at the terminal is told of."""

    ready: Callable[[Endpoints], None]
    trouble: Callable[[str], None]


def up(settings: CloudSettings, report: Report) -> None:
    """Run the cloud until SIGINT, SIGTERM or SIGHUP, then end all of it. Raises `CannotStart`."""
    _prepare_folder(settings)
    with _only_one(settings.data), _stop_signals() as wanted:
        settings = _with_ports(settings)
        supervisor = Supervisor(settings.path("logs"), settings.log_bytes)
        said = BrokerLog(supervisor.log("broker"), settings.log_bytes)
        try:
            parts = _start(settings, supervisor)
            _wait_until_ready(parts, supervisor, wanted, report)
            _publish(settings, supervisor)
            report.ready(_endpoints(settings, supervisor))
            _name_those_outside(parts, report)
            door = _Door(parts, said, report)
            with Health(_what_servers_are_for(parts)) as found:
                while True:
                    door.step(supervisor.pids().get("broker"))
                    _look_after(supervisor, wanted, report, lambda: _publish(settings, supervisor))
                    _cure(found, supervisor, settings, report)
        except Stopped:
            pass
        except ChildFailed as error:
            raise CannotStart(str(error)) from error
        except DatabaseError as error:
            raise CannotStart(f"the catalogue in {settings.data} cannot be used: {error.orig}") from error
        except OSError as error:
            raise _unusable(settings.data, error) from error
        finally:
            # A second signal does not wait for the order.
            wanted.impatient = supervisor.kill
            settings.path(services.ENDPOINTS).unlink(missing_ok=True)
            supervisor.stop(*WORKERS)
            supervisor.stop(*SERVERS)


def _start(settings: CloudSettings, supervisor: Supervisor) -> Services:
    """Start all children; the store first, since it takes longest and needs nothing."""
    processes.find_program("nats-server")
    identity = weed.keys(settings.path("keys"))
    store_folder = private.folder(settings.path("store"))
    supervisor.start(
        Child(
            "store",
            lambda: weed.command(store_folder, identity, host=settings.host, s3_port=settings.s3_port),
            folder=store_folder,
            environment={**os.environ, "HOME": str(store_folder)},  # where it looks for a configuration of its own
        )
    )
    parts = services.open_services(settings, create=True, store_timeout_s=3.0, store_attempts=1)
    supervisor.start(
        Child(
            "broker",
            lambda: broker.command(devices.write_broker_configuration(parts, wire.now())),
            folder=private.folder(settings.path("broker")),
            environment={},
        )
    )
    for name in WORKERS:
        serve = [sys.executable, "-P", "-m", "edgecase_cloud", "serve", name, "--data", settings.data]
        supervisor.start(
            Child(
                name,
                lambda serve=serve: serve,  # type: ignore[misc]
                environment=settings.environment(),
                parent_death_signal=signal.SIGTERM,
            )
        )
    return parts


def _wait_until_ready(parts: Services, supervisor: Supervisor, wanted: _Signals, report: Report) -> None:
    settings = parts.settings
    probe = _probe(parts)
    address = (settings.host, settings.mqtt_port)
    deadline_s = time.monotonic() + _READY_WITHIN_S
    checks: dict[str, Callable[[], bool]] = {
        "broker": lambda: broker.accepts(*address, probe),
        "store": lambda: health.has_bucket(parts.store) and health.keeps(parts.store),
        "web": lambda: health.answers(settings.host, settings.web_port),
        "ingest": lambda: health.ask_ingest(*address, probe, within_s=1.0).answered,
    }
    for name, check in checks.items():
        while not check():
            _look_after(supervisor, wanted, report, lambda: None)
            failed = [child for child in (*SERVERS, *WORKERS) if supervisor.failures(child) >= _TRIES_TO_START]
            if failed or time.monotonic() > deadline_s:
                culprit = failed[0] if failed else name
                raise CannotStart(
                    f"{culprit} does not start: {supervisor.last_words(culprit)} (see {supervisor.log(culprit)})"
                )


def _look_after(supervisor: Supervisor, wanted: _Signals, report: Report, changed: Callable[[], None]) -> None:
    """One look at the children and a short wait; raises `Stopped` when a signal came."""
    before = supervisor.pids()
    for ended in supervisor.step():
        report.trouble(_again(ended))
    if supervisor.pids() != before:
        try:
            changed()
        except OSError as error:
            report.trouble(str(_unusable(Path(error.filename or "."), error)))
    wanted.check()
    time.sleep(0.1)
    wanted.check()


def _again(ended: Ended) -> str:
    return f"{ended.name} {ended.why}; starting it again in {ended.delay_s:g} s (see {ended.log})"


def _cure(found: Health, supervisor: Supervisor, settings: CloudSettings, report: Report) -> None:
    """A server that runs and has not done its work for long is started again, once there is room for what it writes."""
    for name in found.sick(supervisor.pids()):
        if shutil.disk_usage(settings.data).free < _ROOM_BYTES:
            if found.is_news(name):
                report.trouble(f"{name} cannot work: the disk of {settings.data} is full; make room")
            continue
        ended = supervisor.restart(name, "runs but does not do its work")
        found.forget(name)
        report.trouble(_again(ended))


def _what_servers_are_for(parts: Services) -> dict[str, Callable[[], bool]]:
    address = (parts.settings.host, parts.settings.mqtt_port)
    return {
        "broker": lambda: health.ask_ingest(*address, _probe(parts), within_s=5.0).taken,
        "store": lambda: health.keeps(parts.store),
    }


def _probe(parts: Services) -> ssl.SSLContext:
    authority = devices.an_authority(parts)
    credential = authority.for_client(parts.settings.path("keys", broker.PROBE_CREDENTIAL), broker.PROBE, wire.now())
    return broker.client_context(authority.path, credential)


class _Door:
    """What the broker needs besides running: its refusals are recorded, and it is told where who may come in has changed by time alone.

    It also learns here of what a command that was killed has written, but not said.
    """

    def __init__(self, parts: Services, said: BrokerLog, report: Report) -> None:
        self._parts = parts
        self._said = said
        self._audit = Audit(parts.catalogue)
        self._report = report
        self._told = ""
        self._look_at_s = 0.0
        self._failed = False

    def step(self, broker_pid: int | None) -> None:
        try:
            for refusal in self._said.step(broker_pid) if broker_pid is not None else ():
                self._audit.refused(refusal, wire.now())
            if time.monotonic() >= self._look_at_s:
                self._look_at_s = time.monotonic() + _WHO_MAY_COME_EVERY_S
                self._tell()
            self._failed = False
        except (OperationalError, OSError) as error:  # a full disk, as a rule
            if not self._failed:
                self._report.trouble(f"devices and refusals cannot be looked after now: {error}")
            self._failed = True

    def _tell(self) -> None:
        text = devices.broker_configuration(self._parts, wire.now())
        if text != self._told:
            devices.tell_broker(self._parts, wire.now())
            self._told = text


def _name_those_outside(parts: Services, report: Report) -> None:
    outside = [row.id for row in devices.every(parts) if devices.standing(row, wire.now()) is devices.Standing.OUTSIDE]
    if outside:
        report.trouble(
            f"{', '.join(outside)}: passwords are no more; enrol each once: "
            f"edgecase-cloud device add ID --data {parts.settings.data}"
        )


# The folder


def _prepare_folder(settings: CloudSettings) -> None:
    data = settings.data
    try:
        private.folder(data)
        for name in ("logs", "keys"):
            private.folder(data / name)
        probe = data / f".probe-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        free_bytes = shutil.disk_usage(data).free
    except OSError as error:
        raise _unusable(data, error) from error
    if free_bytes < settings.min_free_bytes:
        raise CannotStart(
            f"only {free_bytes >> 20} MiB are free for {data} and {settings.min_free_bytes >> 20} MiB are needed; "
            "make room, choose another folder with --data, or set min_free_bytes"
        )


def _unusable(data: Path, error: OSError) -> CannotStart:
    if error.errno == errno.ENOSPC:
        return CannotStart(f"the disk of {data} is full; make room or choose another folder with --data")
    where = error.filename or data
    return CannotStart(f"{where} cannot be used: {error.strerror}; choose a folder with --data that you may write to")


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Hold the data folder; wait for what a killed predecessor left, which ends by itself."""
    with (data / services.LOCK).open("a+") as lock:
        for attempt in range(5):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:  # another `up`, or somebody who looks whether there is one
                if attempt == 4:
                    raise CannotStart(f"{_holder(data)} runs on {data} already; stop it first") from error
                time.sleep(0.05)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            _wait_for_leftovers(data)
            yield
        finally:
            lock.truncate(0)


def _holder(data: Path) -> str:
    pid = (data / services.LOCK).read_text().strip()
    return f"another edgecase-cloud up (process {pid})" if pid else "another edgecase-cloud command"


def _wait_for_leftovers(data: Path) -> None:
    left = services.read_endpoints(data)
    if left is None:
        return
    deadline_s = time.monotonic() + _LEFTOVERS_S
    while (alive := [pid for pid in left.pids.values() if _works_on(data, pid)]) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    for pid in alive:
        processes.kill_group(pid)
    (data / services.ENDPOINTS).unlink(missing_ok=True)


def _works_on(data: Path, pid: int) -> bool:
    process = Path("/proc", str(pid))
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        folder = (process / "cwd").readlink()
    except OSError:
        return False
    return os.fsencode(data) in arguments or folder in {data / "broker", data / "store"}


def _with_ports(settings: CloudSettings) -> CloudSettings:
    """The settings with a port for each 0; refuses a port that is taken."""
    asked: dict[str, int] = {name: getattr(settings, name) for name in _PORTS}
    chosen: dict[str, int] = {}
    for name, option in _PORTS.items():
        port = asked[name] or processes.free_port(settings.host, avoid={*asked.values(), *chosen.values()})
        if port in chosen.values() or not processes.is_free(settings.host, port):
            raise CannotStart(
                f"port {port} of {settings.host} is taken; stop what listens there or choose another with {option} "
                "(0: any free one)"
            )
        chosen[name] = port
    return settings.model_copy(update=chosen)


def _publish(settings: CloudSettings, supervisor: Supervisor) -> None:
    written: dict[str, Any] = vars(_endpoints(settings, supervisor))
    durable.write(settings.path(services.ENDPOINTS), json.dumps(written, indent=1).encode() + b"\n", mode=0o600)


def _endpoints(settings: CloudSettings, supervisor: Supervisor) -> Endpoints:
    return Endpoints(
        web=settings.hub_url,
        mqtt_host=settings.host,
        mqtt_port=settings.mqtt_port,
        s3=settings.store_url,
        pids={"up": os.getpid(), **supervisor.pids()},
    )


# Signals


class _Signals:
    """Whether a signal asked for the end; a second one calls `impatient`."""

    def __init__(self) -> None:
        self.came = False
        self.impatient: Callable[[], None] = lambda: None

    def __call__(self, _number: int, _frame: object) -> None:
        if self.came:
            self.impatient()
        self.came = True

    def check(self) -> None:
        if self.came:
            raise Stopped


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Signals]:
    wanted = _Signals()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, wanted) for number in numbers}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
