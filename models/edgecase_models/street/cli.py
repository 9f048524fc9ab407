"""The command that writes labelled pictures of simulated streets: `edgecase-model street`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecase_models.street.spec import StreetError


def render(
    out: Annotated[Path, typer.Argument(help="Folder to write; made if it is missing.")],
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 200,
    seeds: Annotated[str, typer.Option(help="Streets, as 1,2,5-9.")] = "0-9",
    scenes: Annotated[str, typer.Option(help="Scenes, as day,night or one timeline, day:20,night:30.")] = "day",
    split: Annotated[str, typer.Option(help="Name of the split, such as train or val.")] = "train",
    size: Annotated[str, typer.Option(help="Width and height in pixels.")] = "640x360",
    spacing_s: Annotated[float, typer.Option(help="Seconds of street time between two pictures.")] = 4.0,
) -> None:
    """Write labelled pictures of simulated streets in the Ultralytics layout."""
    from rich.console import Console
    from rich.progress import track

    from edgecase_models.street.dataset import plan_samples, render_dataset

    console = Console(stderr=True)
    try:
        samples = plan_samples(count, parse_seeds(seeds), split_scenes(scenes), parse_size(size), spacing_s)
        rendered = render_dataset(
            out, track(samples, "Rendering", console=console, disable=not console.is_terminal), split
        )
    except StreetError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from error
    console.print(f"{rendered.pictures} pictures, {rendered.boxes} boxes: {rendered.data_yaml}")


def parse_seeds(text: str) -> list[int]:
    """`1,2,5-9` as whole numbers.

    Raises:
        StreetError: the text has another form.
    """
    seeds: list[int] = []
    for entry in text.split(","):
        first, dash, last = entry.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise StreetError(f"seeds={text!r}: {entry!r} is no whole number or range; write 1,2,5-9")
        seeds += range(int(first), int(last if dash else first) + 1)
    return seeds


def split_scenes(text: str) -> list[str]:
    """A comma list of scenes; a text with lengths (`day:20,night:30`) is one timeline."""
    return [text] if ":" in text else [entry.strip() for entry in text.split(",")]


def parse_size(text: str) -> tuple[int, int]:
    """`640x360` as width and height.

    Raises:
        StreetError: the text has another form.
    """
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise StreetError(f"size={text!r}: write width and height as 640x360")
    return int(width), int(height)
