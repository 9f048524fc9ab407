"""What the supervisor promises: loops that crash run again, all of them end together, and none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgecase_agent import supervisor as module
from edgecase_agent.settings import SettingsError
from edgecase_agent.supervisor import FINE, WRONG_INPUT, Loop, Supervisor, only_one
from support.wait import until


def a_loop(name: str, script: str, *, ends: bool = False) -> Loop:
    return Loop(name, ["/bin/sh", "-c", script], ends=ends)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_the_end_of_the_recording_ends_everything_once_nothing_is_left(tmp_path: Path) -> None:
    left = [3, 2, 1, 0]
    loops = [a_loop("watch", "exit 0", ends=True), a_loop("uplink", "exec sleep 60")]
    assert Supervisor(loops, lambda: left.pop(0)).run() == FINE
    assert left == []
    assert loops[1].process is not None
    assert loops[1].process.poll() == -signal.SIGTERM


def test_what_is_left_is_not_waited_for_longer_than_asked() -> None:
    loops = [a_loop("watch", "exit 0", ends=True), a_loop("uplink", "exec sleep 60")]
    assert Supervisor(loops, lambda: 1, drain_s=0.2).run() == FINE


def test_wrong_input_of_one_ends_all_with_its_exit_code() -> None:
    loops = [a_loop("watch", "sleep 0.1; exit 2", ends=True), a_loop("uplink", "exec sleep 60")]
    assert Supervisor(loops, None).run() == WRONG_INPUT
    assert loops[1].process is not None
    assert loops[1].process.poll() is not None


def test_a_loop_that_crashes_runs_again_and_the_others_do_not_notice(tmp_path: Path) -> None:
    starts, other = tmp_path / "starts", tmp_path / "other"
    loops = [
        a_loop("watch", f"echo x >> {starts}; test $(wc -l < {starts}) -ge 2 && exit 0; kill -9 $$", ends=True),
        a_loop("uplink", f"echo x >> {other}; exec sleep 60"),
    ]
    assert Supervisor(loops, None).run() == FINE
    assert len(lines(starts)) == 2
    assert len(lines(other)) == 1


def test_waits_between_crashes_double_and_begin_anew_after_a_steady_minute() -> None:
    loop = a_loop("x", "")
    waits = []
    for now_s in range(8):
        loop.started_s = now_s
        waits.append(loop.crashed(now_s))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    loop.started_s = 100
    assert loop.crashed(200) == 1


def test_a_signal_ends_all_in_order(tmp_path: Path) -> None:
    said = tmp_path / "said"
    ready = tmp_path / "ready"
    script = f"trap 'echo ended >> {said}; exit 0' TERM; touch {ready}; while :; do sleep 0.05; done"

    def stop() -> None:
        until(ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    assert Supervisor([a_loop("watch", script, ends=True), a_loop("uplink", script)], None).run() == FINE
    thread.join()
    assert lines(said) == ["ended", "ended"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loop_that_does_not_listen_is_made_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END_WITHIN_S", 0.2)
    loops = [a_loop("watch", "exit 0", ends=True), a_loop("deaf", "trap '' TERM; while :; do sleep 0.05; done")]
    assert Supervisor(loops, None).run() == FINE
    assert loops[1].process is not None
    assert loops[1].process.poll() is not None


CHILD = """
import os, sys, time
from edgecase_agent.supervisor import die_with
die_with(int(sys.argv[1]))
os.write(1, b"%d\\n" % os.getpid())
time.sleep(60)
"""
SUPERVISED = """
import os, sys
from edgecase_agent.supervisor import Loop, Supervisor
Supervisor([Loop(n, [sys.executable, "-c", sys.argv[1], str(os.getpid())]) for n in "abc"], None).run()
"""


def test_a_supervisor_that_is_killed_leaves_no_child() -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISED, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            children = [int(parent.stdout.readline()) for _ in range(3)]
        finally:
            parent.kill()
            parent.wait()
        until(lambda: not any(_runs(pid) for pid in children), what="the children to end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_data_folder_serves_one_agent_at_a_time(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "data"),
        pytest.raises(SettingsError, match="another edgecase-agent is using it"),
        only_one(tmp_path / "data"),
    ):
        pass
    with only_one(tmp_path / "data"):
        pass


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="choose another folder"), only_one(tmp_path / "file" / "data"):
        pass
