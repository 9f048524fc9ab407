"""Keeps the loops running: each in a process of its own, started again when it crashes, ended together."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from edgecase_agent.settings import SettingsError

FINE, CRASHED, WRONG_INPUT = 0, 1, 2
_TICK_S: Final = 0.1
_END_WITHIN_S: Final = 10.0
_STEADY_S: Final = 60.0
_LONGEST_BACKOFF_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger()


@dataclass
class Loop:
    """One child process. `ends`: exit code 0 means that its work is done, not that it crashed."""

    name: str
    command: Sequence[str]
    ends: bool = False
    process: subprocess.Popen[bytes] | None = None
    done: bool = False
    failures: int = 0
    started_s: float = 0.0
    start_at_s: float = field(default=0.0)

    def start(self, now_s: float) -> None:
        """Start it, in a process group of its own: a Ctrl-C at the terminal reaches it through us, in order."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, process_group=0)
        self.started_s = now_s

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on, if it runs."""
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def crashed(self, now_s: float) -> float:
        """Note a crash; how long to wait before the next start."""
        self.failures = 1 if now_s - self.started_s > _STEADY_S else self.failures + 1
        wait_s = min(_LONGEST_BACKOFF_S, 2.0 ** (self.failures - 1))
        self.process, self.start_at_s = None, now_s + wait_s
        return wait_s


class Supervisor:
    """Runs the loops until a signal, until one of them meets wrong input, or until the one that ends is done and nothing is left to send.

    `left` says how many frames still wait to be sent; None where nobody sends them. They have `drain_s` after a recording has ended and
    `settle_s` after a signal; what is left then is sent by the next run.
    """

    def __init__(
        self,
        loops: Sequence[Loop],
        left: Callable[[], int] | None,
        *,
        drain_s: float = 60.0,
        keep_running: bool = False,
        settle_s: float = 3.0,
    ) -> None:
        self._settle_s = settle_s
        self._loops = loops
        self._left = left
        self._drain_s = drain_s
        self._keep_running = keep_running
        self._drain_until_s: float | None = None
        self._signals = 0

    def run(self) -> int:
        """The exit code: 0 when all went as asked, 2 when a person must put something right."""
        previous = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._signals:
                now_s = time.monotonic()
                for loop in self._loops:
                    if self._tend(loop, now_s) == WRONG_INPUT:
                        return WRONG_INPUT
                if self._drained(now_s):
                    break
                time.sleep(_TICK_S)
            return FINE
        finally:
            self._end()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _tend(self, loop: Loop, now_s: float) -> int | None:
        """Start it when it is time; what it ended with, if it did."""
        if loop.process is None:
            if not loop.done and now_s >= loop.start_at_s:
                loop.start(now_s)
            return None
        code = loop.process.poll()
        if code is None or code == WRONG_INPUT:
            return code
        if code == FINE and loop.ends:
            loop.done, loop.process = True, None
            return code
        wait_s = loop.crashed(now_s)
        log.error("loop crashed; it is started again", name=loop.name, exit_code=code, wait_s=wait_s)
        return code

    def _drained(self, now_s: float) -> bool:
        """Whether the work that ends is done and sent, or has waited for that long enough."""
        ending = [loop for loop in self._loops if loop.ends]
        if self._keep_running or not ending or not all(loop.done for loop in ending):
            return False
        left = self._left() if self._left is not None else 0
        if left == 0:
            return True
        if self._drain_until_s is None:
            self._drain_until_s = now_s + self._drain_s
            log.info("source ended; sending what is left", frames=left)
        if now_s < self._drain_until_s:
            return False
        log.warning("frames stay in the spool and are sent by the next run", frames=left)
        return True

    def _end(self) -> None:
        """Ask all to end, then make them; a second signal makes them at once.

        Whoever makes work ends first: what its last window yields has a moment to be sent, if the line is there.
        """
        signals = self._signals
        self._end_loops([loop for loop in self._loops if loop.ends], signals)
        sending = [loop for loop in self._loops if not loop.ends]
        send_until_s = time.monotonic() + self._settle_s
        while signals and self._left is not None and self._left() and any(loop.running for loop in sending):
            if time.monotonic() > send_until_s or self._signals > signals:
                break
            time.sleep(_TICK_S)
        self._end_loops(sending, signals)

    def _end_loops(self, loops: Sequence[Loop], signals: int) -> None:
        for loop in loops:
            loop.signal(signal.SIGTERM)
        end_at_s = time.monotonic() + _END_WITHIN_S
        while any(loop.running for loop in loops):
            if time.monotonic() > end_at_s or self._signals > signals:
                for loop in loops:
                    loop.signal(signal.SIGKILL)
            time.sleep(_TICK_S / 2)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1


def command(name: str, config: Path) -> list[str]:
    """What starts a loop as our child."""
    return [sys.executable, "-m", "edgecase_agent", name, "-c", str(config), "--parent", str(os.getpid())]


def die_with(parent_pid: int) -> None:
    """End at once, by SIGKILL, when the parent does, however it does: every loop can be killed at any moment anyway."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(CRASHED)


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Hold the data folder; `SettingsError` where another agent holds it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"data {data}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"data {data}: another edgecase-agent is using it; stop that one or choose another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)
