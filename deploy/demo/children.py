"""The demo's child processes: started with a log each, watched, and stopped in reverse order whatever happens."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Child:
    """One command of ours, running."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: Sequence[str], log: Path, stack: ExitStack, cores: Collection[int] = ()) -> Child:
        """Start it out of the terminal's reach; `stack` stops it when it closes, the kernel when we are killed. No `cores` are all."""

        def prepare() -> None:
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if cores:
                os.sched_setaffinity(0, cores)

        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                _ours(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 (two system calls, no locks)
            )
        child = cls(" ".join(command[:2]), process, log)
        stack.callback(child.stop)
        return child

    def must_live(self) -> None:
        """`DemoError` with the log's last line where it has ended."""
        if self.process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise DemoError(f"{self.name} ended with {self.process.returncode}: {lines[-1][:300]}")

    def stop(self, timeout_s: float = 30) -> None:
        """Ask it to end, wait, and end its whole group when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            end = time.monotonic() + timeout_s
            while self.process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            if self.process.poll() is None:
                self.process.kill()
        self.process.wait()


def run_to_end(command: Sequence[str]) -> str:
    """Run one of our commands; its output, or `DemoError` with its last line."""
    done = subprocess.run(_ours(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise DemoError(f"{' '.join(command[:3])} ended with {done.returncode}: {lines[-1][:300]}")
    return done.stdout


def _ours(command: Sequence[str]) -> list[str]:
    return [str(Path(sys.executable).with_name(command[0])), *command[1:]]
