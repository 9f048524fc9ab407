"""What the log promises: one JSON object a line for machines, and no secret in it."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import threading
import structlog
from edgecase_agent import log
log.configure("uplink", "info")
logger = structlog.get_logger()

def crash(password):
    raise RuntimeError("something broke")

try:
    crash("hun" + "ter2")
except RuntimeError:
    logger.exception("loop crashed", frame_id="f")
logger.debug("not shown")
thread = threading.Thread(target=lambda: logger.warning("from another thread"))
thread.start()
thread.join()
"""


def test_events_are_json_lines_with_their_loop_and_a_trace_without_the_values_of_variables() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stderr
    first, second = (json.loads(line) for line in said.splitlines())
    assert (first["event"], first["loop"], first["level"], first["frame_id"]) == (
        "loop crashed",
        "uplink",
        "error",
        "f",
    )
    assert "RuntimeError: something broke" in first["exception"]
    assert "hunter2" not in said
    assert (second["event"], second["loop"]) == ("from another thread", "uplink")
