"""Servers and devices are killed, cut from power, link and disk under load, and every frame that was promised is accounted for.

make faults                                        every line, about half an hour; table, and build/bench/faults.json
python -m bench.faults --only kills --scale 0.1    one line, a tenth of it
"""

from __future__ import annotations

import argparse
import signal
import time
import traceback
from collections.abc import Iterator

from bench.faults.lines import LINES, Line
from bench.faults.site import a_cloud, a_folder
from bench.report import Report, Row
from support.disks import NoDisk


def run(line: Line, scale: float) -> Iterator[Row]:
    """One line on a cloud of its own."""
    began_s = time.monotonic()

    def say(what: str) -> None:
        print(f"[{line.name} {time.monotonic() - began_s:5.0f} s] {what}", flush=True)

    with a_folder() as folder:
        if not line.wants_cloud:
            yield from line.work(None, folder, scale, say)
            return
        with a_cloud(folder / "cloud") as cloud:
            yield from line.work(cloud, folder, scale, say)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[line.name for line in LINES], help="these lines")
    parser.add_argument("--scale", type=float, default=1.0, help="so much of each line: 0.1 for a tenth")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing stays behind
    report = Report("faults", "Every frame that `put` promised, whatever was done to the machines")
    for line in LINES:
        if asked.only and line.name not in asked.only:
            continue
        try:
            for row in run(line, asked.scale):
                report.add(row)
                print(f"{row.name}: {row.value:g} {row.unit}", flush=True)
        except NoDisk as reason:
            print(f"{line.name} is left out: {reason}", flush=True)
        except Exception:  # noqa: BLE001 (the others still run)
            traceback.print_exc()
            report.add(Row(line.name, 1, "did not come to its end", bar=0, at_most=True))
    report.close()


if __name__ == "__main__":
    main()
