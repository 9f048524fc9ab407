"""Child processes that never outlive their parent, not even one that was killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from edgecase_cloud.errors import Unusable

EPHEMERAL_FROM: Final = 32_768  # from here on the kernel gives ports to outgoing connections
_LOWEST_PORT: Final = 15_000
_GIVES_WAY: Final = 5  # of the 19 levels of nice(2): at the last a busy machine would never come to it
_PR_SET_PDEATHSIG: Final = 1


class MissingProgram(Unusable):
    """A server program is not installed; tell the person how to get it."""


def find_program(name: str) -> Path:
    """`name` beside the running interpreter (a virtual environment) or on PATH."""
    beside = Path(sys.executable).with_name(name)
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which(name)
    if found is None:
        raise MissingProgram(f"{name} is not installed; run: pip install 'edgecase[cloud]'")
    return Path(found)


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    parent_death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `command` in a process group of its own, its output appended to `log`.

    The kernel sends `parent_death_signal` when the calling thread ends, so call this from the main thread.
    The group keeps a Ctrl-C in the terminal from reaching the child before the parent has decided the order.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def bind_to_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(parent_death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=bind_to_parent,  # noqa: PLW1509 - it calls the kernel only, no lock can be held
        )


def stop(process: subprocess.Popen[bytes], within_s: float) -> int:
    """Ask `process` to end and wait; after `within_s` kill it. Whatever it left in its group is killed too."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
    kill_group(process.pid)
    return process.wait()


def kill_group(leader_pid: int) -> None:
    """SIGKILL for every process of the group that `leader_pid` leads; nothing where it is gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)


def give_way() -> None:
    """Called by a process whose work can wait: it gets what others leave, and a third of their share where they leave nothing."""
    os.nice(_GIVES_WAY)
    with contextlib.suppress(
        OSError
    ):  # where the kernel groups processes by session, niceness counts inside of the group alone
        Path("/proc/self/autogroup").write_text(str(_GIVES_WAY))


def end_with_parent(grace_s: float = 5.0) -> None:
    """Called by a child: when the parent is gone, the whole group of this process ends within `grace_s`.

    The first SIGTERM comes from the kernel; this covers a child that does not heed it, and its own children.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(grace_s)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: a closing connection does not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_free_everywhere(host: str, port: int) -> bool:
    """Whether nobody listens there on any address of this machine either; the store takes no other port."""
    return is_free(host, port) and is_free("", port)


def free_port(host: str, *, avoid: Collection[int] = (), below: int = EPHEMERAL_FROM) -> int:
    """Some port that is free now, and out of the way of outgoing connections, so that it is free at a restart, too."""
    while True:
        port = _LOWEST_PORT + secrets.randbelow(below - _LOWEST_PORT)
        if port not in avoid and is_free_everywhere(host, port):
            return port
