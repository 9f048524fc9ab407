"""The command that tries policies on a recording before they ship: `edgecase-agent replay`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgecase_agent.replay import Policies
    from edgecase_agent.replayed import Recorded
    from edgecase_agent.settings import AgentSettings
    from edgecase_agent.source import Source

WRONG_INPUT = 2
DEFAULT_OUT = Path("replay")


def replay(
    source: Annotated[str, typer.Argument(help="A video, a folder of pictures, or sim://street?…&frames=300.")],
    bundle: Annotated[
        Path | None, typer.Option(help="The model to look with. Left out: that of the device's settings.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="What is really there: label files (Ultralytics), MOT text, or sim for sim://street."),
    ] = None,
    truth_class: Annotated[
        str | None, typer.Option("--truth-class", help="Judge this class alone; MOT text, which names none, needs it.")
    ] = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="A policy in TOML; several are compared. Left out: the settings', or the default."),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=1e-4, max=1.0, help="Keep this share of the frames, in the place of every policy's whole budget."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="A device's settings, for its model, policy, name, cohorts and privacy."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="The device that it would be, for campaigns that are for some only.")
    ] = None,
    cohort: Annotated[
        list[str] | None, typer.Option(help="A cohort that it would belong to; may be given again.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where report.html and replay.json go; replay where neither this nor --json is given."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, for a script to read.")] = False,
    max_fps: Annotated[float | None, typer.Option(min=0.001, help="Pass over frames that come faster.")] = None,
    limit_frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one inference.")] = None,
) -> None:
    """Show what policies would keep of a recording: nothing is sent. With a truth, also which of the model's errors they catch."""
    from edgecase_agent import log as logs
    from edgecase_agent.assemble import fatal_to_watch, redaction_terms
    from edgecase_agent.replay import Options, ReplayError, must_end
    from edgecase_agent.replay import replay as replayed
    from edgecase_agent.source import Thinned, open_source
    from edgecase_agent.truths import TruthError, read_truths
    from edgecase_models.bundle import Bundle
    from edgecase_models.detector import Runtime

    logs.configure("replay", "warning")
    wrong: tuple[type[Exception], ...] = (*fatal_to_watch(), ReplayError, TruthError, OSError)
    out = out if out is not None or as_json else DEFAULT_OUT
    try:
        settings = _settings(config)
        chosen = _policies(policy or [], settings, config)
        opened = Bundle.open(_bundle(bundle, settings))
        recording = open_source(source, live=False)
        must_end(source, recording, limit_frames)
        truths = None if truth is None else read_truths(truth, source, opened.manifest.classes, truth_class)
        if out is not None:
            _prepare(out)
        runtime = Runtime() if settings is None else Runtime(settings.model.threads, providers=settings.model.providers)
        options = Options(
            runtime=runtime if threads is None else Runtime(threads, providers=runtime.providers),
            share=share,
            limit_frames=limit_frames,
            device=device or (settings.device if settings is not None and settings.device else ""),
            cohorts=tuple(cohort or (() if settings is None else settings.cohorts)),
            redaction=None if settings is None else redaction_terms(settings),
        )
        total = _total(recording, limit_frames, thinned=max_fps is not None)
        thinned = recording if max_fps is None else Thinned(recording, max_fps)
        with _progress(total) as progress:
            found = replayed(thinned, opened, chosen, options, truths, progress)
        if out is not None:
            _write(found, out)
    except wrong as error:
        typer.echo("error: " + " ".join(str(error).split()), err=True)
        raise typer.Exit(WRONG_INPUT) from error
    if as_json:
        typer.echo(found.document.to_json().decode())
    else:
        _show(found)
    if out is not None:
        typer.echo(f"{out / 'report.html'}, {out / 'replay.json'}", err=as_json)


def _settings(config: Path | None) -> AgentSettings | None:
    from edgecase_agent.settings import load_settings

    return None if config is None else load_settings(config)


def _policies(files: Sequence[Path], settings: AgentSettings | None, config: Path | None) -> Policies:
    """The policies by the names of their files, or of their paths where those are alike."""
    from edgecase_agent.replay import ReplayError
    from edgecase_models.policy import Policy, read_policy

    if not files:
        return {"default": Policy()} if settings is None or config is None else {config.stem: settings.policy}
    stems = [file.stem for file in files]
    names = [str(file) if stems.count(file.stem) > 1 else file.stem for file in files]
    if len(set(names)) < len(names):
        raise ReplayError("a policy is given twice; leave one out")
    return {name: read_policy(file) for name, file in zip(names, files, strict=True)}


def _bundle(given: Path | None, settings: AgentSettings | None) -> Path:
    from edgecase_agent.replay import ReplayError

    if given is not None:
        return given
    if settings is None:
        raise ReplayError("no model to look with; give --bundle, or the device's settings with -c agent.toml")
    return settings.model.bundle


def _total(source: Source, limit_frames: int | None, *, thinned: bool) -> int | None:
    """How many of its frames the source will give, as far as it is known beforehand."""
    from edgecase_agent.sources.pictures import PictureFolder
    from edgecase_agent.sources.recording import Recording
    from edgecase_agent.sources.street import StreetSource

    count = source.count if isinstance(source, PictureFolder | Recording | StreetSource) else None
    if limit_frames is None:
        return count
    return None if thinned else min(limit_frames, count or limit_frames)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _prepare(out: Path) -> None:
    """Make the folder now: nobody wants to learn afterwards that it cannot be."""
    from edgecase_agent.replay import ReplayError

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".part").touch()
        (out / ".part").unlink()
    except OSError as error:
        raise ReplayError(f"--out {out}: {error.strerror}; name a folder that can be written to") from error


def _write(found: Recorded, out: Path) -> None:
    from edgecase_agent.durable import replace_lazily
    from edgecase_agent.replay_report import page

    replace_lazily(out / "report.html", page(found).encode())
    replace_lazily(out / "replay.json", found.document.to_json())


def _show(found: Recorded) -> None:
    from rich.console import Console

    from edgecase_agent.replay_report import headline, notes, table

    console = Console(highlight=False)
    console.print(headline(found.document), markup=False)
    console.print(table(found.document))
    for about, note in notes(found.document):
        console.print(f"{about}: {note}", markup=False, style="yellow")
