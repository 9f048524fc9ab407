"""`edgecase-agent`: enrol a device, run it, check it, see how it is, replay a recording."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from edgecase_agent.replay_cli import replay

if TYPE_CHECKING:
    from edgecase_agent.settings import AgentSettings
    from edgecase_agent.status import Overview
    from edgecase_agent.update import Findings

WRONG_INPUT = 2

app = typer.Typer(
    help="Watches a camera with a detector, keeps the frames that are worth a label, and brings them to the cloud.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Option("-c", "--config", help="The device's settings.")]
Json = Annotated[bool, typer.Option("--json", help="For a script to read.")]
Parent = Annotated[int, typer.Option("--parent", hidden=True)]


def _version(wanted: bool) -> None:
    if wanted:
        from edgecase_agent.status import version

        typer.echo(version())
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: Config = Path("agent.toml"),
    drain_s: Annotated[
        float, typer.Option(min=0, help="When a recording ends: how long to go on sending what is left.")
    ] = 60.0,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="When a recording ends: stay, for updates and what is left to send.")
    ] = False,
) -> None:
    """Watch, send and update until stopped (Ctrl-C, SIGTERM) or until a recording ends."""
    from edgecase_agent import log as logs
    from edgecase_agent.settings import SettingsError, load_enrolment, load_settings
    from edgecase_agent.supervisor import Loop, Supervisor, command, only_one

    try:
        settings = load_settings(config)
        enrolled = load_enrolment(settings) is not None
        logs.configure("supervisor", settings.log_level)
        loops = [Loop("watch", command("watch", config), ends=True)]
        if enrolled:
            loops += [Loop(name, command(name, config)) for name in ("uplink", "update")]
        left = (lambda: _left(settings.data / "spool")) if enrolled else None
        with only_one(settings.data):
            code = Supervisor(loops, left, drain_s=drain_s, keep_running=keep_running).run()
    except SettingsError as error:
        _wrong(error)
    raise typer.Exit(code)


@app.command()
def enroll(
    hub: Annotated[str, typer.Option(help="Address of the hub, like http://hub:8700.")],
    token: Annotated[str, typer.Option(help="From `edgecase-cloud device add`; good for once.")],
    out: Annotated[Path, typer.Option(help="The folder to make; name it as `enrolment` in the settings.")] = Path(
        "enrolment"
    ),
) -> None:
    """Make this device's key and have it certified by the cloud. Cut off at any point, it can be called again."""
    from edgecase_agent.enroll import EnrolmentFailed
    from edgecase_agent.enroll import enroll as enrolled

    try:
        device = enrolled(hub, token, out)
    except EnrolmentFailed as error:
        _wrong(error)
    typer.echo(f"{device} is enrolled; its key and certificate are in {out}")


@app.command()
def check(config: Config = Path("agent.toml"), as_json: Json = False) -> None:
    """Try configuration, disk, model, policy, source, broker and hub, and say what to do about what fails."""
    from edgecase_agent import checks

    findings = []
    if as_json:
        import msgspec

        findings = list(checks.every(config))
        typer.echo(msgspec.json.format(msgspec.json.encode(findings)).decode())
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        for finding in checks.every(config):
            findings.append(finding)
            mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]–[/]"}[finding.ok]
            console.print(f"{mark} {finding.name:<13} ", end="")
            console.print(" ".join(finding.detail.split()), markup=False)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(WRONG_INPUT)


@app.command()
def status(config: Config = Path("agent.toml"), as_json: Json = False) -> None:
    """What the device runs, has seen, kept and sent, from its files; it need not be running."""
    import msgspec

    from edgecase_agent.settings import SettingsError, load_settings
    from edgecase_agent.spool_open import SpoolError
    from edgecase_agent.status import overview

    try:
        seen = overview(load_settings(config).data)
    except (SettingsError, SpoolError) as error:
        _wrong(error)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(seen)).decode())
    else:
        _show(seen)


app.command()(replay)


@app.command(hidden=True)
def watch(config: Config, parent: Parent = 0) -> None:
    """The loop that looks."""
    from edgecase_agent import assemble

    _loop(config, parent, assemble.watch, assemble.fatal_to_watch())


@app.command(hidden=True)
def uplink(config: Config, parent: Parent = 0) -> None:
    """The loop that sends."""
    from edgecase_agent import assemble

    _loop(config, parent, assemble.uplink, assemble.FATAL)


@app.command(hidden=True)
def update(config: Config, parent: Parent = 0) -> None:
    """The loop that fetches models and policies."""
    from edgecase_agent import assemble

    _loop(config, parent, assemble.update, assemble.FATAL)


@app.command("try-bundle", hidden=True)
def try_bundle(
    bundle: Path,
    running: Path,
    parent: Parent = 0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    provider: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """Whether a bundle may run in place of another, as JSON; the model may take this process down."""
    from edgecase_agent.update import try_bundle as tried

    _try(tried, bundle, running, parent, threads, provider)


@app.command("try-policy", hidden=True)
def try_policy(
    policy: Path,
    running: Path,
    parent: Parent = 0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    provider: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """Whether a policy may be followed with the bundle that runs, as JSON; its conditions may take this process down."""
    from edgecase_agent.orders import try_policy as tried

    _try(tried, policy, running, parent, threads, provider)


def _try(
    tried: Callable[..., Findings],
    content: Path,
    running: Path,
    parent: int,
    threads: int,
    providers: list[str] | None,
) -> None:
    import msgspec

    from edgecase_agent.supervisor import die_with

    if parent:
        die_with(parent)
    findings = tried(content, running, threads=threads, providers=providers or ["CPUExecutionProvider"])
    sys.stdout.buffer.write(msgspec.json.encode(findings))


def _loop(
    config: Path,
    parent: int,
    loop: Callable[[AgentSettings, threading.Event], None],
    fatal: tuple[type[Exception], ...],
) -> None:
    import structlog

    from edgecase_agent.settings import load_settings
    from edgecase_agent.supervisor import die_with

    if parent:
        die_with(parent)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    try:
        loop(load_settings(config), stopped)
    except fatal as error:
        _say(error)
        _leave(WRONG_INPUT)
    except Exception:  # noqa: BLE001 (the loop's own: it leaves its trace and is started again)
        structlog.get_logger().exception("loop crashed")
        _leave(1)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: a thread that waits for a camera does not keep us."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _left(spool: Path) -> int:
    """Frames that are still to be sent; what cannot be told counts as one."""
    from edgecase_agent.spool import Spool, SpoolError

    try:
        return Spool.look(spool).balance.spooled
    except SpoolError:
        return 1


def _say(error: Exception) -> None:
    typer.echo("error: " + " ".join(str(error).split()), err=True)


def _wrong(error: Exception) -> NoReturn:
    """One line that says what to do, and exit code 2."""
    _say(error)
    raise typer.Exit(WRONG_INPUT)


def _show(seen: Overview) -> None:
    from rich.console import Console

    from edgecase_agent.standing import PROBLEM, lines
    from edgecase_models import wire

    console = Console(highlight=False, soft_wrap=True)
    for name, said in lines(seen, wire.now()):
        console.print(f"{name:<13} ", style="bold red" if name == PROBLEM else "bold", end="")
        console.print(" ".join(said.split()), markup=False)
