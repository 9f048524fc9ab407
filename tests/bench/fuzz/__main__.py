"""A hundred thousand inputs to each parser: only our own errors, none over 100 ms.

make fuzz                                                the table, and build/bench/fuzz.json
python -m bench.fuzz --only bundles --inputs 5000        some inputs to one parser
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from bench.fuzz.parsers import parsers
from bench.fuzz.run import LIMIT_MS, Found, chunk
from bench.report import BUILD, Report, Row

INPUTS, SEED = 100_000, 20_260
_CHUNK = 5_000
_MOST_SHOWN = 5


def _chunks(inputs: int) -> Iterator[int]:
    while inputs > 0:
        yield min(_CHUNK, inputs)
        inputs -= _CHUNK


def rows(name: str, found: Found) -> Iterator[Row]:
    """For the report."""
    told = f"of {found.inputs:,} inputs ({found.accepted:,} of them valid)"
    yield Row(f"{name}: errors that are not ours", len(found.foreign), told, bar=0, at_most=True)
    yield Row(
        f"{name}: slowest",
        found.slowest_ms,
        f"ms, {len(found.slowest):,} bytes: {found.slowest[:40]!r}",
        bar=LIMIT_MS,
        at_most=True,
    )


def main() -> None:
    names = [parser.name for parser in parsers()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="to each parser")
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        os.environ["TMPDIR"] = folder  # of the processes that are started, which end without putting things away
        _run(asked.only or names, asked.inputs, asked.seed)


def _run(names: Sequence[str], inputs: int, seed: int) -> None:
    report = Report("fuzz", f"{inputs:,} inputs to each parser, seed {seed}")
    for name in names:
        found = Found()
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            try:
                chunks = list(_chunks(inputs))
                for part in pool.map(chunk, [name] * len(chunks), chunks, [seed + n for n in range(len(chunks))]):
                    found.add(part)
            except BrokenProcessPool as error:  # a parser that takes its process down
                found.foreign.append((str(error), b""))
        for row in rows(name, found):
            report.add(row)
            print(f"{row.name}: {row.value:.4g} {row.unit}", flush=True)
        for number, (trace, content) in enumerate(found.foreign[:_MOST_SHOWN]):
            print(trace, file=sys.stderr)
            _keep(f"fuzz-{name.replace(' ', '-')}-{number}.bin", content)
        if found.slow:
            _keep(f"fuzz-{name.replace(' ', '-')}-slowest.bin", found.slowest)
    report.close()


def _keep(name: str, content: bytes) -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / name
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    main()
