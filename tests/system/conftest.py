"""Both halves together: the real cloud, the real agent, and bundles for them to run."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from edgecase_agent import cli as agent_cli
from support.cloud import Cloud, running_cloud
from support.wait import until

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
STARTER = ROOT / "models" / "starter"


@dataclass
class Agent:
    """An enrolled device: its settings file, and `edgecase-agent` on it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgecase_agent", "run", "-c", str(self.config)],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self, timeout_s: float) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.wait(30)

    def status(self) -> dict[str, Any]:
        """`edgecase-agent status --json`."""
        command = [sys.executable, "-m", "edgecase_agent", "status", "-c", str(self.config), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)


@dataclass
class Circle:
    """A cloud of its own, and devices enrolled with it."""

    cloud: Cloud
    hub: httpx.Client
    folder: Path

    def agent(self, device: str, uri: str, bundle: Path, **sections: dict[str, Any]) -> Agent:
        folder = self.folder / device
        self.enrol(device)
        agent = Agent(folder)
        lines = [f'device = "{device}"', 'data = "data"', 'enrolment = "enrolment"']
        given = {"source": {"uri": uri, "camera": "front"}, "model": {"bundle": str(bundle)}} | sections
        for section, values in given.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        agent.config.write_text("\n".join(lines))
        return agent

    def enrol(self, device: str) -> None:
        """Add a device and do as one is told then, but for where its folder is to be."""
        added = self.cloud.run("device", "add", device, "--json")
        assert added.returncode == 0, added.stderr
        _, *arguments = shlex.split(json.loads(added.stdout)["command"])
        done = CliRunner().invoke(agent_cli.app, [*arguments, "--out", str(self.folder / device / "enrolment")])
        assert done.exit_code == 0, done.output

    def get(self, path: str, **query: Any) -> Any:
        return self.hub.get(f"/api/v1/{path}", params=query).raise_for_status().json()

    def queue(self, **query: Any) -> list[dict[str, Any]]:
        return self.get("queue", **{"review": "any", "limit": 200} | query)["items"]

    def until(self, condition: Callable[[], Any], within_s: float, what: str) -> Any:
        return until(condition, within_s=within_s, every_s=0.2, what=what)


@contextmanager
def a_circle(folder: Path, **environment: str) -> Iterator[Circle]:
    with (
        running_cloud(folder / "cloud", **environment) as cloud,
        httpx.Client(base_url=cloud.endpoints.web, timeout=30) as hub,
    ):
        yield Circle(cloud, hub, folder)


@pytest.fixture
def circle() -> Iterator[Circle]:
    with tempfile.TemporaryDirectory(prefix="circle-") as folder, a_circle(Path(folder)) as made:
        yield made
