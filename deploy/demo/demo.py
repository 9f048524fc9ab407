"""The whole circle once: two drifting simulated cameras, the real agent, the real cloud, one retraining, one release."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from children import Child, DemoError, run_to_end
from display import Display
from figures import checks_of, collect
from oracle import Oracle
from report import page
from showcase import before_after, most_doubtful, tracks_of

from edgecase_models.street import Street, StreetSpec

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "models" / "starter"

SCENE = "day:12,dusk:8,night:45,night-rain:600"
UNDRIFTED = ("day",)
DRIFTED = ("night", "night-rain")
STARTER_SEEDS, UNSEEN_SEEDS = range(1000, 1030), range(7000, 7010)
AFTER_TRAINING_S = 55.0
"""Export, gate, release, the swap and the last deliveries, on a slow machine."""

LATER_INDEX = 50_000
"""Of a street at 10 frames per second: well over an hour after the demo has ended."""


@dataclass(frozen=True)
class Plan:
    """What the demo does, in numbers; the defaults fit six minutes on two cores without a GPU."""

    out: Path
    starter: Path = STARTER
    labels: int = 130
    fps: float = 10.0
    collect_s: float = 120.0
    device_seeds: tuple[int, ...] = (11, 23)
    replay_pictures: int = 110
    golden_undrifted: int = 80
    golden_drifted: int = 100
    aim_s: float = 335.0
    limit_s: float = 900.0

    @property
    def streets(self) -> Path:
        """The rendered pictures."""
        return self.out / "streets"

    @property
    def device_cores(self) -> set[int]:
        """The cores that the devices share; the cloud, which trains, has the others to itself. Real devices bring their own."""
        cores = sorted(os.sched_getaffinity(0))
        return set(cores[len(cores) // 2 :])

    def config(self, device: str) -> Path:
        """The agent's settings."""
        return self.out / device / "agent.toml"

    @property
    def devices(self) -> dict[str, StreetSpec]:
        """Device id -> its street."""
        return {
            f"cam-{n}": StreetSpec(seed=seed, scene=SCENE, fps=self.fps)
            for n, seed in enumerate(self.device_seeds, start=1)
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: every promise held; 1: one did not; 2: could not run; 130: interrupted."""
    plan, keep = _arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    display = Display()
    try:
        with ExitStack() as stack:
            return _run(plan, keep, display, stack)
    except KeyboardInterrupt:
        display.note("interrupted; everything that was started has been stopped")
        return 130
    except (DemoError, httpx.HTTPError) as error:
        display.fail(f"{error}; the logs are in {plan.out}")
        return 2
    finally:
        display.close()


def _arguments(argv: Sequence[str] | None) -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "demo", help="where everything goes; emptied first"
    )
    parser.add_argument("--labels", type=int, default=Plan.labels, help="label budget in frames (default %(default)s)")
    parser.add_argument("--starter", type=Path, default=STARTER, help="folder with starter.pt and starter.edgecase.tar")
    parser.add_argument("--keep", action="store_true", help="leave the stack and the devices running until Ctrl-C")
    given = parser.parse_args(argv)
    return Plan(given.out.resolve(), given.starter.resolve(), given.labels), given.keep


def _run(plan: Plan, keep: bool, display: Display, stack: ExitStack) -> int:
    started = time.monotonic()
    _fresh_folder(plan.out)
    with display.stage("render held-out streets and the day pictures to replay"):
        datasets = _render(plan)
    with display.stage("start broker, store, database, web and learning worker"):
        cloud, hub = _start_cloud(plan, stack, display)
        _bring_in(plan, datasets)
    with display.stage("start two devices on streets that drift from day into night and rain"):
        devices = [_start_device(plan, device, spec, stack) for device, spec in plan.devices.items()]
    devices_started = time.monotonic()
    oracle = Oracle(hub, {device: Street(spec) for device, spec in plan.devices.items()}, plan.labels)
    watchdog = _Watchdog([cloud, *devices], started + plan.limit_s)
    with display.stage(f"find doubtful frames and label them, {plan.labels} at most"):
        _collect(plan, oracle, hub, display, watchdog)
    with display.stage("retrain, gate, sign and release"):
        job = _retrain(plan, hub, display, watchdog, time.monotonic() - started)
    with display.stage("update both devices over the air"):
        digest, swapped = _wait_for_swap(hub, job, plan, display, watchdog)
    with display.stage("let the devices run on, then stop them and drain their spools"):
        _wait(10, lambda: display.counters(_summary(hub), oracle), watchdog)
        for device in devices:
            device.stop(timeout_s=60)
    figures = collect(
        {device: plan.config(device) for device in plan.devices}, hub, oracle, job, digest, time.monotonic() - started
    )
    checks = checks_of(figures)
    with display.stage("write the report"):
        _write_report(plan, hub, figures, checks, {device: at - devices_started for device, at in swapped.items()})
    display.verdict(figures, checks, plan.out / "report.html")
    if keep:
        _leave_running(plan, hub, stack, display)
    return 0 if all(ok for ok, _ in checks) else 1


def _fresh_folder(out: Path) -> None:
    marker = out / ".edgecase-demo"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise DemoError(f"{out} is not empty and not a demo's folder; give another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    marker.touch()


def _render(plan: Plan) -> dict[str, Path]:
    """Day pictures to replay, and two held-out sets: half of each are the devices' own streets later, half streets that no device saw.

    The starter has learnt from some of the streets to replay and from none of the others.
    """
    from edgecase_models.street.dataset import plan_samples, render_dataset

    def held_out(count: int, scenes: tuple[str, ...]) -> list[tuple[StreetSpec, int]]:
        own = [StreetSpec(seed, scene) for seed in plan.device_seeds for scene in scenes]
        later = [(spec, LATER_INDEX + 170 * number) for spec in own for number in range(count // 2 // len(own))]
        return later + plan_samples(count - len(later), list(UNSEEN_SEEDS), scenes, spacing_s=9.0)

    wanted = {
        "base": (plan_samples(plan.replay_pictures, list(STARTER_SEEDS), UNDRIFTED, spacing_s=9.0), "train"),
        "undrifted": (held_out(plan.golden_undrifted, UNDRIFTED), "val"),
        "drifted": (held_out(plan.golden_drifted, DRIFTED), "val"),
    }
    with ProcessPoolExecutor() as pool:
        rendering = [
            pool.submit(render_dataset, plan.streets / name, samples, split)
            for name, (samples, split) in wanted.items()
        ]
        for each in rendering:
            each.result()
    return {name: plan.streets / name for name in wanted}


def _start_cloud(plan: Plan, stack: ExitStack, display: Display) -> tuple[Child, httpx.Client]:
    data = plan.out / "cloud"
    ports = ["--web-port", "0", "--mqtt-port", "0", "--s3-port", "0"]
    cloud = Child.start(["edgecase-cloud", "up", "--data", str(data), *ports], plan.out / "cloud.log", stack)
    endpoints = data / "endpoints.json"
    _until(endpoints.exists, 60, [cloud], "the cloud to start")
    web = json.loads(endpoints.read_text())["web"]
    hub = stack.enter_context(httpx.Client(base_url=web, timeout=30))
    _until(lambda: hub.get("/readyz").status_code == 200, 30, [cloud], "the cloud to be ready")
    display.note(f"watch it at [bold]{web}[/]")
    return cloud, hub


def _bring_in(plan: Plan, datasets: dict[str, Path]) -> None:
    data = ["--data", str(plan.out / "cloud")]
    bundle, weights = plan.starter / "starter.edgecase.tar", plan.starter / "starter.pt"
    run_to_end(["edgecase-cloud", "model", "import", *data, "--bundle", str(bundle), "--weights", str(weights)])
    for name, folder in datasets.items():
        kind = "base" if name == "base" else "golden"
        run_to_end(["edgecase-cloud", "dataset", "import", *data, str(folder), "--name", name, "--kind", kind])


def _start_device(plan: Plan, device: str, spec: StreetSpec, stack: ExitStack) -> Child:
    added = run_to_end(["edgecase-cloud", "device", "add", device, "--data", str(plan.out / "cloud"), "--json"])
    told = json.loads(added)
    enrolment = plan.out / device / "enrolment"
    run_to_end(["edgecase-agent", "enroll", "--hub", told["hub"], "--token", told["token"], "--out", str(enrolment)])
    config = plan.config(device)
    config.write_text(_agent_toml(plan, device, spec))
    return Child.start(
        ["edgecase-agent", "run", "-c", str(config)], plan.out / device / "agent.log", stack, plan.device_cores
    )


def _agent_toml(plan: Plan, device: str, spec: StreetSpec) -> str:
    kept_per_hour = 1.1 * plan.labels / len(plan.device_seeds) / plan.collect_s * 3600
    return f"""device = "{device}"
data = "{plan.out / device / "data"}"
enrolment = "{plan.out / device / "enrolment"}"

[source]
uri = "{spec.uri()}"
camera = "street"

[model]
bundle = "{plan.starter / "starter.edgecase.tar"}"

[selection]
window_s = 5.0
gap_s = 0.5

[selection.budget]
frames_per_hour = {kept_per_hour:.0f}
"""


def _collect(plan: Plan, oracle: Oracle, hub: httpx.Client, display: Display, watchdog: _Watchdog) -> None:
    deadline = time.monotonic() + plan.collect_s + 30
    while not oracle.done and time.monotonic() < deadline:
        watchdog.look()
        oracle.step(at_most=8)
        display.counters(_summary(hub), oracle)
        time.sleep(0.5)
    if not oracle.spent_frames:
        raise DemoError("no frame came to be labelled")


def _retrain(plan: Plan, hub: httpx.Client, display: Display, watchdog: _Watchdog, passed_s: float) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    request = {
        "time_s": max(100.0, plan.aim_s - passed_s - AFTER_TRAINING_S),
        "threads": max(1, cores - len(plan.device_cores)),
        "replay": plan.replay_pictures,
        "keep": 0.3,
        "lr0": 0.002,
        "block_s": 10.0,
        "gap_s": 1.0,
        "val_share": 0.1,
        "release": True,
    }
    made = hub.post("/api/v1/jobs", json={"kind": "retrain", "request": request}).raise_for_status().json()
    while True:
        watchdog.look()
        job: dict[str, Any] = hub.get(f"/api/v1/jobs/{made['id']}").raise_for_status().json()
        display.job(job)
        if job["state"] == "done":
            break
        if job["state"] == "failed":
            raise DemoError(f"retraining failed at {job['stage']}: {job['error']}")
        time.sleep(1)
    return job


def _wait_for_swap(
    hub: httpx.Client, job: dict[str, Any], plan: Plan, display: Display, watchdog: _Watchdog
) -> tuple[str, dict[str, float]]:
    """The newest release's digest, and when each device was first seen to run it (seconds since the devices started)."""
    newest = hub.get("/api/v1/summary").raise_for_status().json()["release"]
    digest: str = newest["digest"]
    swaps: dict[str, float] = {}
    if not job["result"].get("released"):
        display.note(f"the gate held the candidate back: {'; '.join(job['result']['gate']['reasons'])}")
        return digest, swaps
    deadline = time.monotonic() + 60
    while len(swaps) < len(plan.device_seeds) and time.monotonic() < deadline:
        watchdog.look()
        for device in hub.get("/api/v1/devices").raise_for_status().json():
            if device["running_digest"] == digest:
                swaps.setdefault(device["id"], time.monotonic())
        time.sleep(0.5)
    return digest, swaps


def _write_report(
    plan: Plan, hub: httpx.Client, figures: dict[str, Any], checks: Sequence[tuple[bool, str]], swaps: dict[str, float]
) -> None:
    (plan.out / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    incumbent, candidate = (plan.out / "cloud" / "bundles" / f"{digest}.tar" for digest in figures["gate_digests"])
    html = page(
        figures,
        checks,
        tracks_of(hub, plan.devices, swaps),
        most_doubtful(hub, 6),
        before_after(plan.streets / "drifted", incumbent, candidate, 4),
    )
    (plan.out / "report.html").write_text(html)


def _leave_running(plan: Plan, hub: httpx.Client, stack: ExitStack, display: Display) -> None:
    for device in plan.devices:
        Child.start(["edgecase-agent", "run", "-c", str(plan.config(device))], plan.out / device / "agent.log", stack)
    display.note(f"kept running: [bold]{hub.base_url}[/]; Ctrl-C stops everything")
    signal.pause()


def _summary(hub: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = hub.get("/api/v1/summary").raise_for_status().json()
    return answer


@dataclass(frozen=True)
class _Watchdog:
    """Ends the demo when a child has died or the time is up."""

    children: Sequence[Child]
    deadline: float

    def look(self) -> None:
        for child in self.children:
            child.must_live()
        if time.monotonic() > self.deadline:
            raise DemoError("the demo took too long")


def _wait(seconds: float, each: Callable[[], None], watchdog: _Watchdog) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watchdog.look()
        each()
        time.sleep(0.5)


def _until(done: Callable[[], bool], timeout_s: float, children: Sequence[Child], what: str) -> None:
    end = time.monotonic() + timeout_s
    while True:
        for child in children:
            child.must_live()
        try:
            if done():
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise DemoError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
