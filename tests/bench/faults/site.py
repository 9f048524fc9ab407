"""Where the faults happen: a real cloud as `edgecase-cloud up` runs it, and devices whose halves are processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from bench.faults.proxy import Proxy
from bench.faults.writer import Promise, promises
from edgecase_agent import cli as agent_cli
from edgecase_agent import status
from edgecase_agent.spool import Look, Spool
from edgecase_cloud import authority, broker, processes
from edgecase_models import wire
from support.broker import Client
from support.cloud import Cloud
from support.wait import until

TESTS: Final = Path(__file__).parents[2]
HOST: Final = "127.0.0.2"
"""Loopback that is not 127.0.0.1: there the device goes through the HTTP proxy of its environment, as beyond loopback."""
WRITER, UPLINK = "writer", "uplink"
PARTS: Final = (WRITER, UPLINK)
SERVERS: Final = ("broker", "store", "ingest")


def enrol(cloud: Cloud, device: str, folder: Path) -> None:
    """Add a device and do as one is told then, so that its identity lies in `folder`/enrolment."""
    added = cloud.run("device", "add", device, "--json")
    assert added.returncode == 0, added.stderr
    _, *arguments = shlex.split(json.loads(added.stdout)["command"])
    done = CliRunner().invoke(agent_cli.app, [*arguments, "--out", str(folder / "enrolment")])
    assert done.exit_code == 0, done.output


def listen_in(cloud: Cloud, device: str) -> Client:
    """A second ear beside ingest: it receives what the device publishes, and what waits for it outlives the broker."""
    host, port = cloud.endpoints.mqtt_host, cloud.endpoints.mqtt_port
    client = Client(f"listening-to-{device}", clean_session=False)
    keys = cloud.data / "keys"
    client.tls_set_context(broker.client_context(keys / authority.CERTIFICATE, keys / broker.INGEST_CREDENTIAL))
    client.reconnect_delay_set(1, 2)
    client.connect(host, port)
    client.loop_start()
    assert client.subscribed(wire.up_topic(device, "#"))
    return client


@dataclass
class Load:
    """What a device captures: so many frames of so many bytes, one every so often; and how much its spool may hold.

    So many as are `prepared` are made before the first is put.
    """

    every_s: float = 0.1
    size_bytes: int = 20_000
    frames: int = sys.maxsize
    quota_bytes: int = 2_000_000_000
    ballast_bytes: int = 1 << 20
    prepared: int = 0


@dataclass
class Device:
    """Its disk is `data`; what is in `folder` (enrolment, logs, the ledger) outlives whatever happens to the disk."""

    name: str
    folder: Path
    data: Path
    load: Load = field(default_factory=Load)
    environment: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def spool(self) -> Path:
        return self.data / "spool"

    def configure(self, **uplink: object) -> None:
        """Write agent.toml; `uplink` are settings of that section."""
        chosen = {"status_every_s": 1.0} | uplink
        lines = [f'device = "{self.name}"', f'data = "{self.data}"', 'enrolment = "enrolment"']
        lines += ['source = { uri = "sim://street", camera = "front" }', 'model = { bundle = "none.tar" }']
        lines += [f"spool = {{ quota_bytes = {self.load.quota_bytes}, min_free_bytes = 0 }}"]
        lines += ["[uplink]", *(f"{name} = {value}" for name, value in chosen.items())]
        (self.folder / "agent.toml").write_text("\n".join(lines))

    def start(self, *parts: str) -> None:
        """Start these halves, both by default."""
        for part in parts or PARTS:
            assert not self.runs(part), f"{self.name}'s {part} runs already"
            self.running[part] = processes.start(
                self._command(part),
                log=self.folder / f"{part}.log",
                environment=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])} | self.environment,
            )

    def through(self, to_broker: Proxy, to_store: Proxy) -> None:
        """From its next start on it reaches broker and store through these."""
        file = self.folder / "enrolment" / "device.toml"
        lines = [line for line in file.read_text().splitlines() if not line.startswith("mqtt_port")]
        file.write_text("\n".join([*lines, f"mqtt_port = {to_broker.port}", ""]))
        self.environment |= {"http_proxy": f"http://{to_store.host}:{to_store.port}", "no_proxy": "", "NO_PROXY": ""}

    def runs(self, part: str) -> bool:
        return part in self.running and self.running[part].poll() is None

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a half at once, and wait for its end."""
        process = self.running.pop(part)
        process.send_signal(number)
        process.wait(30)

    def stop(self, *parts: str) -> None:
        """End these halves in order; both by default."""
        for part in parts or PARTS:
            if self.runs(part):
                processes.stop(self.running.pop(part), 20)

    def freeze(self) -> None:
        """Stop the time of both halves, as a power cut does."""
        for process in self.running.values():
            process.send_signal(signal.SIGSTOP)

    def promised(self) -> list[Promise]:
        """What the writer was told, in order."""
        return promises(self.ledger)

    def captured(self, more: int, within_s: float = 60.0) -> None:
        """Wait for so many more frames."""
        wanted = len(self.promised()) + more
        self.until(lambda: len(self.promised()) >= wanted, within_s, f"{more} more frames")

    def acknowledged(self, more: int, within_s: float = 60.0) -> None:
        """Wait for so many more acknowledgements."""
        wanted = self.balance().acknowledged + more
        self.until(lambda: self.balance().acknowledged >= wanted, within_s, f"{more} more acknowledgements")

    def until(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        """Wait; where it is in vain, say how the device is."""
        try:
            until(condition, within_s=within_s, every_s=0.05, what=f"{self.name}: {what}")
        except AssertionError as error:
            logs = "\n".join(f"{part}: {self.log(part)}" for part in PARTS)
            raise AssertionError(f"{error}; {self.balance()}\n{logs}") from None

    def look(self) -> Look:
        """The accounts of the spool."""
        return Spool.look(self.spool)

    def balance(self) -> wire.Balance:
        return self.look().balance

    def connected(self) -> bool:
        """Whether the uplink says that the broker is there; it says so once a second."""
        said = status.read(self.data / status.STATE / status.UPLINK, status.UplinkReport)
        return said is not None and said.connected

    def log(self, part: str) -> str:
        """The end of what a half logged."""
        file = self.folder / f"{part}.log"
        return file.read_text(errors="replace")[-1500:] if file.exists() else ""

    def _command(self, part: str) -> list[str | Path]:
        if part == UPLINK:
            return [sys.executable, "-m", "edgecase_agent", "uplink", "-c", self.folder / "agent.toml"]
        options = {f"--{name.replace('_', '-')}": value for name, value in vars(self.load).items()}
        given = [str(word) for option in options.items() for word in option]
        return [sys.executable, "-m", "bench.faults.writer", self.spool, self.ledger, *given]


@contextlib.contextmanager
def a_device(
    cloud: Cloud, name: str, folder: Path, *, data: Path | None = None, load: Load | None = None, **uplink: object
) -> Iterator[Device]:
    """An enrolled device, nothing of it running yet; whatever runs at the end is ended."""
    mine = folder / name
    mine.mkdir(parents=True)
    enrol(cloud, name, mine)
    device = Device(name, mine, data or mine / "data", load or Load())
    device.configure(**uplink)
    try:
        yield device
    finally:
        for process in device.running.values():
            process.send_signal(signal.SIGCONT)
            processes.stop(process, 5)


@contextlib.contextmanager
def a_cloud(data: Path, **settings: object) -> Iterator[Cloud]:
    """A cloud on ports that stay the same when it is started again."""
    ports: list[int] = []
    for _ in range(3):
        ports.append(processes.free_port(HOST, avoid=ports))
    options = ("--web-port", "--mqtt-port", "--s3-port")
    given = tuple(str(word) for option in zip(options, ports, strict=True) for word in option)
    environment = {f"EDGECASE_CLOUD_{name.upper()}": str(value) for name, value in settings.items()}
    cloud = Cloud(data, ("--host", HOST, *given), environment=environment)
    try:
        cloud.start()
        yield cloud
    finally:
        if cloud.process is not None:
            cloud.stop()


@contextlib.contextmanager
def a_folder() -> Iterator[Path]:
    """A folder that is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="edgecase-faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pid_of(cloud: Cloud, part: str, within_s: float = 45.0) -> int:
    """The process of a part of the cloud, as soon as it runs (again)."""

    def alive() -> int:
        with contextlib.suppress(AssertionError):
            pid = cloud.endpoints.pids.get(part, 0)
            if pid and _lives(pid):
                return pid
        return 0

    return until(alive, within_s=within_s, what=f"{part} to run")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def keep_away(cloud: Cloud, part: str, seconds: float) -> None:
    """Let a part of the cloud not run for so long: whoever starts it again starts it in vain."""
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        with contextlib.suppress(AssertionError, ProcessLookupError):
            pid = cloud.endpoints.pids.get(part)
            if pid is not None and _lives(pid):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
