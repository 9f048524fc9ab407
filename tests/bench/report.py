"""One form for every benchmark: a table for people, `build/bench/<name>.json` for scripts; `ok` follows from value and bar."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
BUILD = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Row:
    """A measured value, beside a peer's where there is one, held against a bar where there is one."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    bar: float | None = None
    at_most: bool = False

    @property
    def ok(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar


@dataclass
class Report:
    """Rows as they come in; `close()` prints the table and writes the JSON."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def close(self) -> Path:
        table = Table("", "value", "unit", "peer", "peer's", "bar", "", title=self.title, title_justify="left")
        marks = {None: "", True: "[green]✓[/]", False: "[red]missed[/]"}
        for row in self.rows:
            bar = "" if row.bar is None else f"{'≤' if row.at_most else '≥'} {row.bar:g}"
            theirs = "" if row.peer_value is None else f"{row.peer_value:.4g}"
            name, unit, peer = escape(row.name), escape(row.unit), escape(row.peer or "")
            table.add_row(name, f"{row.value:.4g}", unit, peer, theirs, bar, marks[row.ok])
        Console(width=150).print(table)
        BUILD.mkdir(parents=True, exist_ok=True)
        path = BUILD / f"{self.name}.json"
        path.write_text(json.dumps(self._json(), indent=1) + "\n")
        return path

    def _json(self) -> dict[str, object]:
        keys = ("name", "value", "unit", "peer", "peer_value", "bar", "ok")
        return {
            "commit": _commit(),
            "machine": f"{platform.machine()}, {_processor()}, Python {platform.python_version()}",
            "seconds": round(time.monotonic() - self.started, 1),
            "rows": [{key: getattr(row, key) for key in keys} for row in self.rows],
        }


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
