"""What all commands share: the options that each has, how they print, and how they end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from edgecase_cloud.durable import Busy
from edgecase_cloud.errors import Unusable

Data = Annotated[Path, typer.Option("--data", envvar="EDGECASE_CLOUD_DATA", help="The folder that the cloud lives in.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """What a person can mend ends the command with one line and exit code 2, what is away with 1; a fault of ours shows its trace."""
    from edgecase_cloud.store import StoreError

    try:
        yield
    except Unusable as error:
        fail(_joined(error), 2)
    except Busy as error:
        fail(f"{_joined(error)}; wait for it to end", 2)
    except StoreError as error:
        fail(_joined(error), 1)


def fail(line: str, code: int) -> NoReturn:
    """End the command with this line on stderr."""
    sys.stderr.write(f"edgecase-cloud: {line}\n")
    raise typer.Exit(code)


def say(line: str) -> None:
    """A line for people, as it is, and at once."""
    from rich.console import Console

    Console(highlight=sys.stdout.isatty(), soft_wrap=True).print(line, markup=False, emoji=False)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """JSON for a script."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _joined(error: Exception) -> str:
    return " ".join(str(error).split())
