"""Keeps child processes running: starts them, starts those again that end by themselves, and ends them in order."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecase_cloud import processes

BAD_CONFIGURATION: Final = 2  # a child that ends with this code would end with it again
_FIRST_DELAY_S: Final = 0.25
_LONGEST_DELAY_S: Final = 30.0
_STEADY_S: Final = 60.0


class ChildFailed(RuntimeError):
    """A child cannot run; the message holds the last it said."""


@dataclass(frozen=True)
class Child:
    """How one child is started and ended; `command` is asked anew at every start."""

    name: str
    command: Callable[[], Sequence[str | Path]]
    folder: Path | None = None
    environment: Mapping[str, str] | None = None
    parent_death_signal: signal.Signals = signal.SIGKILL
    stop_within_s: float = 5.0


@dataclass(frozen=True)
class Ended:
    """A child ended by itself, or could not be started again; the next start is in `delay_s`."""

    name: str
    why: str
    delay_s: float
    log: Path


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    since_s: float
    failures: int = 0  # in a row, none of them after a steady run
    restart_at_s: float | None = None


class Supervisor:
    """Children by name, each logging to `<logs>/<name>.log`. Call everything from the main thread."""

    def __init__(self, logs: Path, log_bytes: int, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._log_bytes = log_bytes
        self._monotonic_s = monotonic_s
        self._running: dict[str, _Running] = {}
        self._leaving: list[_Running] = []

    def start(self, child: Child) -> None:
        """Start a child; from now on `step` keeps it running."""
        self._running[child.name] = _Running(child, self._spawn(child), self._monotonic_s())

    def pids(self) -> dict[str, int]:
        """The processes that run now."""
        return {name: r.process.pid for name, r in self._running.items() if r.restart_at_s is None}

    def failures(self, name: str) -> int:
        """How often in a row a child has ended by itself."""
        return self._running[name].failures

    def log(self, name: str) -> Path:
        """What a child wrote."""
        return self._logs / f"{name}.log"

    def last_words(self, name: str) -> str:
        """The last line that a child wrote."""
        try:
            lines = self.log(name).read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:500] if lines else "it said nothing"

    def step(self) -> list[Ended]:
        """Look once at every child and start those again whose time has come; what ended since the last look.

        Raises `ChildFailed` where a child ended over its configuration.
        """
        return [ended for running in self._running.values() if (ended := self._look_at(running)) is not None]

    def restart(self, name: str, why: str) -> Ended:
        """End a child that runs; `step` starts it again as if it had ended by itself."""
        running = self._running[name]
        processes.stop(running.process, running.child.stop_within_s)
        return self._failed(running, why)

    def stop(self, *names: str) -> None:
        """End children together, each within its time; none of them is started again."""
        self._leaving = [r for r in (self._running.pop(name, None) for name in names) if r is not None]
        for running in self._leaving:
            if running.process.poll() is None:
                running.process.terminate()
        began_s = self._monotonic_s()
        for running in self._leaving:
            left_s = began_s + running.child.stop_within_s - self._monotonic_s()
            processes.stop(running.process, max(0.0, left_s))

    def kill(self) -> None:
        """End everything at once, also what is being stopped; may be called from a signal handler."""
        for running in (*self._running.values(), *self._leaving):
            processes.kill_group(running.process.pid)

    def _look_at(self, running: _Running) -> Ended | None:
        now_s = self._monotonic_s()
        if running.restart_at_s is not None:
            if now_s < running.restart_at_s:
                return None
            try:
                running.process = self._spawn(running.child)
            except OSError as error:  # a full disk, as a rule; the others still run
                return self._failed(running, f"cannot be started: {error.strerror}")
            running.since_s, running.restart_at_s = now_s, None
            return None
        code = running.process.poll()
        if code is None:
            return None
        processes.kill_group(running.process.pid)
        if code == BAD_CONFIGURATION:
            raise ChildFailed(f"{running.child.name}: {self.last_words(running.child.name)}")
        if now_s - running.since_s > _STEADY_S:
            running.failures = 0
        return self._failed(running, f"ended with {code}" if code >= 0 else f"was killed by signal {-code}")

    def _failed(self, running: _Running, why: str) -> Ended:
        running.failures += 1
        delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(running.failures - 1, 20))
        running.restart_at_s = self._monotonic_s() + delay_s
        return Ended(running.child.name, why, delay_s, self.log(running.child.name))

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        log = self.log(child.name)
        if log.exists() and log.stat().st_size > self._log_bytes:
            log.replace(log.with_suffix(".log.1"))
        return processes.start(
            child.command(),
            log=log,
            folder=child.folder,
            environment=child.environment,
            parent_death_signal=child.parent_death_signal,
        )
