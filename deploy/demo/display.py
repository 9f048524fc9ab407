"""What the terminal shows while the circle closes: stages, live counters, the verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oracle import Oracle
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Display:
    """One live panel on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._live: Live | None = None
        self._started = time.monotonic()
        self._last_line = 0.0

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A stage with its time; the tick comes when it has ended well."""
        start = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(Text(f"… {title}"), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._title = title
        try:
            yield
        finally:
            self.close()
        self.console.print(f"[green]✓[/] {title} [dim]({time.monotonic() - start:.0f} s)[/]")

    def counters(self, summary: dict[str, Any], oracle: Oracle) -> None:
        """Frames on their way, device by device."""
        table = Table.grid(padding=(0, 2))
        table.add_row("", *(f"[bold]{name}" for name in ("seen", "fps", "kept", "acknowledged", "MB sent", "runs")))
        for device in summary["devices"]:
            balance = device["balance"]
            table.add_row(
                device["id"],
                str(device["frames_seen"]),
                f"{device['frames_per_s']:.1f}",
                str(balance.get("kept", 0)),
                str(balance.get("acknowledged", 0)),
                f"{device['bytes_sent'] / 1e6:.1f}",
                device["running_digest"][:8],
            )
        label = Text(f"labels {oracle.spent_frames} of {oracle.budget_frames}, {oracle.labelled_boxes} boxes")
        self._show(Group(self._head(), table, label, ProgressBar(oracle.budget_frames, oracle.spent_frames, width=60)))
        told = [f"labels {oracle.spent_frames}/{oracle.budget_frames}"]
        for device in summary["devices"]:
            balance = device["balance"]
            ended = f"{balance.get('kept', 0)} kept, {balance.get('acknowledged', 0)} acknowledged"
            told.append(f"{device['id']}: {device['frames_seen']} seen, {ended}")
        self._line("; ".join(told))

    def job(self, job: dict[str, Any]) -> None:
        """The learning worker's stage and how far it is."""
        text = Text(f"{job['stage'] or 'waiting'} {job['progress']:.0%}")
        self._show(Group(self._head(), text, ProgressBar(1.0, job["progress"], width=60)))
        self._line(f"{job['stage'] or 'waiting'} {job['progress']:.0%}")

    def note(self, text: str) -> None:
        self.console.print(f"  {text}")

    def fail(self, text: str) -> None:
        self.console.print(f"[red]✗[/] {text}", soft_wrap=True)

    def verdict(self, figures: dict[str, Any], checks: Sequence[tuple[bool, str]], report: Path) -> None:
        """The promises, held or not, and where the report is."""
        self.console.print()
        for ok, text in checks:
            self.console.print(f"{'[green]✓[/]' if ok else '[red]✗[/]'} {text}", soft_wrap=True)
        self.console.print(f"\n{figures['seconds']:.0f} s in all; the report is [bold]{report}[/]", soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _head(self) -> Text:
        return Text(f"… {self._title} ({time.monotonic() - self._started:.0f} s since the start)")

    def _show(self, content: RenderableType) -> None:
        if self._live is not None:
            self._live.update(content)

    def _line(self, text: str) -> None:
        if not self.console.is_terminal and time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            self.console.print(f"  {text}", soft_wrap=True)
