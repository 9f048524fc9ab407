"""The commands that teach and tell: datasets, training, the gate, releases, models and policies."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from edgecase_cloud.errors import Unusable
from edgecase_cloud.terminal import Data, Json, fail, one_line, print_json, print_table, say

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgecase_cloud.catalogue import Bundle, Catalogue, Dataset, Job
    from edgecase_cloud.services import Services

app = typer.Typer(no_args_is_help=True)
dataset_app = typer.Typer(no_args_is_help=True, help="Dataset versions: import, build, list, verify.")
model_app = typer.Typer(no_args_is_help=True, help="The models that the cloud knows: import, list.")
app.add_typer(dataset_app, name="dataset")
app.add_typer(model_app, name="model")
policy_app = typer.Typer(no_args_is_help=True, help="Policies over the air: publish, show, withdraw.")
app.add_typer(policy_app, name="policy")

NOT_PASSED: Final = 1

Cohort = Annotated[str, typer.Option(help="The cohort that is told; default is for all that have none of their own.")]


class UsageError(Unusable):
    """An option that cannot be followed."""


@dataset_app.command("import")
def dataset_import(
    folder: Annotated[Path, typer.Argument(help="A folder in Ultralytics layout: data.yaml, images/, labels/.")],
    data: Data,
    name: Annotated[str, typer.Option(help="What to call it.")],
    kind: Annotated[str, typer.Option(help="base: is learnt from again; golden: judges, and is never learnt from.")],
    split: Annotated[list[str] | None, typer.Option(help="Take this split only; may be repeated.")] = None,
    skip_unreadable: Annotated[bool, typer.Option(help="Leave out pictures that cannot be read.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a labelled folder in as a dataset version."""
    from edgecase_cloud import datasets
    from edgecase_cloud.datasets import Kind

    with one_line():
        if kind not in {Kind.BASE, Kind.GOLDEN}:
            raise UsageError(f"--kind {kind!r} is neither base nor golden")
        parts = _opened(data)
        with _progress("pictures") as told:
            built = datasets.import_folder(
                parts.settings.data,
                parts.catalogue,
                folder,
                name=name,
                kind=Kind(kind),
                only=split or (),
                skip_unreadable=skip_unreadable,
                progress=told,
            )
    _print_built(built.dataset, created=built.created, as_json=as_json)


@dataset_app.command("build")
def dataset_build(
    data: Data,
    block_s: Annotated[float, typer.Option(help="A camera's time is held out or learnt from in blocks of this.")] = 60,
    gap_s: Annotated[float, typer.Option(help="Held-out pictures are at least this far from those learnt from.")] = 5,
    val_share: Annotated[float, typer.Option(help="How much to hold out, 0 to 1.")] = 0.15,
    as_json: Json = False,
) -> None:
    """Make a version of everything that was labelled."""
    from edgecase_cloud import datasets, here
    from edgecase_cloud.splits import SplitRule

    with one_line():
        rule = SplitRule(block_s, gap_s, val_share)
        with here.with_store(data) as parts, _progress("frames") as told:
            built = datasets.build_labelled(parts.settings.data, parts.catalogue, parts.store, rule=rule, progress=told)
    if not as_json:
        for each in built.excluded[:20]:
            say(f"left out {each.frame_id}: {each.reason}")
        if len(built.excluded) > 20:
            say(f"… and {len(built.excluded) - 20} more")
    _print_built(built.dataset, created=built.created, as_json=as_json)


@dataset_app.command("list")
def dataset_list(data: Data, as_json: Json = False) -> None:
    """Every dataset version, oldest first."""
    from edgecase_cloud import datasets

    with one_line():
        rows = datasets.listed(_opened(data).catalogue)
    if as_json:
        print_json([_dataset(row) for row in rows])
        return
    print_table(
        ("id", "name", "kind", "pictures", "boxes", "made"),
        [(r.id[:12], r.name, r.kind, str(r.pictures), str(r.boxes), f"{r.created_at:%Y-%m-%d %H:%M}") for r in rows],
    )


@dataset_app.command("verify")
def dataset_verify(
    data: Data,
    which: Annotated[list[str] | None, typer.Argument(help="Names or ids; all when none is given.")] = None,
    as_json: Json = False,
) -> None:
    """Hold every file of dataset versions against their ids; exit 2 where one was altered."""
    from edgecase_cloud import datasets
    from edgecase_cloud.dataset_files import Altered

    with one_line():
        parts = _opened(data)
        rows = [datasets.find(parts.catalogue, each) for each in which or ()] or datasets.listed(parts.catalogue)
        problems: dict[str, str] = {}
        for row in rows:
            try:
                datasets.opened(parts.settings.data, row)
            except Altered as error:
                problems[row.id] = str(error)
    if as_json:
        print_json([{"id": row.id, "name": row.name, "problem": problems.get(row.id)} for row in rows])
    else:
        for row in rows:
            say(f"{row.id[:12]} {row.name}: {'altered' if row.id in problems else 'whole'}")
    if problems:
        fail("; ".join(problems.values()), 2)


@app.command()
def train(
    data: Data,
    epochs: Annotated[int | None, typer.Option(help="How often every picture is seen.", show_default=False)] = None,
    replay: Annotated[int | None, typer.Option(help="Pictures of the base datasets.", show_default=False)] = None,
    starter_weights: Annotated[
        Path | None, typer.Option(help="Go on from this .pt file instead of the incumbent's.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, or gate.KEY=VALUE of the rules.")
    ] = None,
    release: Annotated[bool, typer.Option(help="Release the model when the gate passes it.")] = True,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    here: Annotated[
        bool, typer.Option("--here", help="Do it in this process; no cloud may run on the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on what was labelled, judge, and release: exit 0 when released or not to be, 1 when failed or not passed."""
    from edgecase_cloud import services
    from edgecase_cloud.catalogue import JobState

    with one_line():
        request = _request(option or [])
        given = {"epochs": epochs, "replay": replay}
        request |= {key: value for key, value in given.items() if value is not None}
        request |= {} if release else {"release": False}
        if here:
            job = _train_here(data, request, starter_weights, quiet=as_json)
        else:
            if wait and services.running_endpoints(data) is None:
                raise UsageError(
                    f"no cloud runs on {data}; start it with `edgecase-cloud up`, train with --here, or queue the job with --no-wait"
                )
            parts = _opened(data)
            job = _submit(parts, request, starter_weights)
            if wait:
                job = _follow(parts.catalogue, job.id, quiet=as_json)
    if as_json:
        print_json(_job(job))
    elif job.state == JobState.QUEUED:
        say(f"job {job.id} waits for the learning worker")
    else:
        _print_job(job)
    passed = bool(job.result.get("passed"))
    if job.state == JobState.FAILED or (job.state == JobState.DONE and not passed):
        raise typer.Exit(NOT_PASSED)


@app.command()
def gate(
    data: Data,
    candidate: Annotated[str, typer.Argument(help="A bundle: its digest's beginning, or its version.")],
    option: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the rules.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    as_json: Json = False,
) -> None:
    """Hold a bundle against the incumbent on the golden datasets; exit 0 when it passes, 1 when not."""
    from edgecase_cloud import bundles, datasets, retrain
    from edgecase_cloud.datasets import Kind
    from edgecase_cloud.gate import compare
    from edgecase_models.detector import Runtime

    with one_line():
        rules = retrain.parse({"gate": _request(option or [])}).rules
        parts = _opened(data)
        row = bundles.find(parts.catalogue, candidate)
        with parts.catalogue.session() as session:
            incumbent = bundles.incumbent(session)
        if incumbent is None or incumbent.digest == row.digest:
            raise UsageError(f"there is no other released model to hold {row.version} against")
        found = datasets.listed(parts.catalogue, Kind.GOLDEN)
        folders = [(each, datasets.opened(parts.settings.data, each)) for each in found]
        package, held = (bundles.opened(parts.settings.data, each.digest) for each in (row, incumbent))
        with _progress("pictures") as told:
            report = compare(
                package, held, retrain.golden_sets(folders), rules, runtime=Runtime(threads=threads), progress=told
            )
        bundles.add(parts.settings.data, parts.catalogue, package.path, gate=report)
    if as_json:
        print_json(report)
    else:
        _print_gate(report)
    if not report["passed"]:
        raise typer.Exit(NOT_PASSED)


@app.command()
def release(
    data: Data,
    bundle: Annotated[str, typer.Argument(help="A bundle: its digest's beginning, or its version.")],
    channel: Annotated[str, typer.Option(help="The cohort that is told.")] = "default",
    without_gate: Annotated[bool, typer.Option("--without-gate", help="Although the gate has not passed it.")] = False,
    as_json: Json = False,
) -> None:
    """Sign a bundle and tell devices to run it."""
    from edgecase_cloud import bundles

    with one_line():
        parts = _opened(data)
        row = bundles.find(parts.catalogue, bundle)
        with parts.catalogue.session() as session:
            first = bundles.incumbent(session) is None
        if row.release is None and not first and not row.gate.get("passed") and not without_gate:
            raise UsageError(
                f"the gate has not passed {row.version}; run `edgecase-cloud gate {row.digest[:12]}`, or insist with --without-gate"
            )
        row = bundles.publish(parts.settings.data, parts.catalogue, row.digest, channel=channel)
    if as_json:
        print_json(_bundle(row))
    else:
        say(f"release {row.release}: {row.name} {row.version} ({row.digest[:12]})")


@model_app.command("import")
def model_import(
    data: Data,
    bundle: Annotated[Path, typer.Option(help="A packed model.")],
    weights: Annotated[Path | None, typer.Option(help="The .pt file that trainings go on from.")] = None,
    as_json: Json = False,
) -> None:
    """Take a model in. The first one is released; a later one is a candidate for the gate."""
    from edgecase_cloud import bundles

    with one_line():
        parts = _opened(data)
        row = bundles.register(parts.settings.data, parts.catalogue, bundle, weights)
    if as_json:
        print_json(_bundle(row))
    else:
        state = f"release {row.release}" if row.release else "a candidate; see `edgecase-cloud gate`"
        say(f"{row.name} {row.version} ({row.digest[:12]}) is {state}")


@model_app.command("list")
def model_list(data: Data, as_json: Json = False) -> None:
    """Every model, newest first."""
    from edgecase_cloud import bundles

    with one_line():
        rows = bundles.listed(_opened(data).catalogue)
    if as_json:
        print_json([_bundle(row) for row in rows])
        return
    print_table(
        ("digest", "name", "version", "release", "gate", "made"),
        [
            (
                row.digest[:12],
                row.name,
                row.version,
                str(row.release or ""),
                {"True": "passed", "False": "not passed"}.get(str(row.gate.get("passed")), ""),
                f"{row.created_at:%Y-%m-%d %H:%M}",
            )
            for row in rows
        ],
    )


@policy_app.command("publish")
def policy_publish(
    file: Annotated[Path, typer.Argument(help="A policy in TOML.")],
    data: Data,
    cohort: Cohort = "default",
    as_json: Json = False,
) -> None:
    """Check a policy, sign it and tell devices to follow it in place of their own settings."""
    from edgecase_cloud import policies

    with one_line():
        policy = policies.publish(data, _opened(data).catalogue, file, cohort=cohort)
    if as_json:
        print_json({"cohort": cohort, "name": policy.name, "digest": policy.digest})
    else:
        say(f"policy {policy.name} ({policy.digest[:12]}) is published for cohort {cohort}")


@policy_app.command("withdraw")
def policy_withdraw(data: Data, cohort: Cohort = "default", as_json: Json = False) -> None:
    """Tell devices to follow the policy of the cohort `default` again, or without one their own settings."""
    from edgecase_cloud import policies

    with one_line():
        policies.withdraw(data, _opened(data).catalogue, cohort=cohort)
    if as_json:
        print_json({"cohort": cohort, "name": None, "digest": None})
    else:
        say(f"the policy of cohort {cohort} is withdrawn")


@policy_app.command("show")
def policy_show(data: Data, as_json: Json = False) -> None:
    """What each cohort is told to look for, and which policy each device follows."""
    from edgecase_cloud import policies

    with one_line():
        catalogue = _opened(data).catalogue
        told = policies.published(data)
        devices = policies.followers(catalogue, told)
    if as_json:
        print_json(
            {
                "policies": {
                    cohort: {"digest": policy.digest, "policy": json.loads(policy.to_json())}
                    for cohort, policy in told.items()
                },
                "devices": [vars(each) for each in devices],
            }
        )
        return
    print_table(("cohort", "policy", "digest"), [(c, policy.name, policy.digest[:12]) for c, policy in told.items()])
    print_table(
        ("device", "follows", "digest", "problem"),
        [
            (
                each.device,
                told[each.cohort].name if each.cohort else "its own" if each.digest else "",
                each.digest[:12],
                each.problem,
            )
            for each in devices
        ],
    )


# Training from the terminal


def _submit(parts: Services, request: dict[str, Any], starter_weights: Path | None) -> Job:
    """Queue a job; weights that are to be started from are taken in first, since a request names them by their digest."""
    from edgecase_cloud import bundles, learner

    if starter_weights is not None:
        request = request | {"starter_weights": bundles.keep_weights(parts.settings.data, starter_weights)}
    return learner.submit(parts.catalogue, request)


def _train_here(data: Path, request: dict[str, Any], starter_weights: Path | None, *, quiet: bool) -> Job:
    """Submit and do a job in this process, its own store beside it; Ctrl-C ends it for good."""
    from edgecase_cloud import here, learner, log

    log.configure("learn")
    with here.alone(data) as parts:
        job = _submit(parts, request, starter_weights)
        stop, done = threading.Event(), threading.Event()

        def work() -> None:
            try:
                learner.run_here(parts, job.id, stop)
            finally:
                done.set()

        worker = threading.Thread(target=work)
        worker.start()
        try:
            return _follow(parts.catalogue, job.id, quiet=quiet, ended=done)
        except KeyboardInterrupt:
            stop.set()
            worker.join()
            learner.cancel(parts.catalogue, job.id, "stopped with Ctrl-C")
            fail("stopped; nothing was released", 130)
        finally:
            stop.set()
            worker.join()


def _follow(catalogue: Catalogue, job_id: int, *, quiet: bool, ended: threading.Event | None = None) -> Job:
    """Show a job's stages until it is over, or until `ended` is set and it is not being done any more."""
    from edgecase_cloud import retrain
    from edgecase_cloud.catalogue import Job, JobState

    with _bars(quiet=quiet) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0, start=False) for stage in retrain.STAGES}
        while True:
            over = ended is not None and ended.is_set()
            with catalogue.session() as session:
                job = session.get_one(Job, job_id)
            if job.stage in tasks:
                at = retrain.STAGES.index(job.stage)
                for stage in retrain.STAGES[:at]:
                    bars.update(tasks[stage], completed=1.0)
                bars.start_task(tasks[job.stage])
                bars.update(tasks[job.stage], completed=job.progress)
            if job.state in (JobState.DONE, JobState.FAILED) or over:
                return job
            time.sleep(0.25)


def _request(options: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs as a request; values are JSON where they can be, text where not."""
    request: dict[str, Any] = {}
    for each in options:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {each!r} is not KEY=VALUE")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        group, dot, name = key.partition(".")
        if dot and group == "gate":
            request.setdefault("gate", {})[name] = value
        else:
            request[key] = value
    return request


# What is printed


def _print_built(row: Dataset, *, created: bool, as_json: bool) -> None:
    if as_json:
        print_json(_dataset(row) | {"created": created})
        return
    counts = ", ".join(f"{count} {split}" for split, count in row.summary.get("splits", {}).items())
    say(
        f"{row.kind} dataset {row.name} {row.id[:12]}: {row.pictures} pictures ({counts}), {row.boxes} boxes"
        f"{'' if created else '; it was there already'}"
    )


def _print_job(job: Job) -> None:
    from edgecase_cloud.catalogue import JobState

    if job.state == JobState.FAILED:
        sys.stderr.write(f"edgecase-cloud: job {job.id} failed in stage {job.stage or 'dataset'}: {job.error}\n")
        return
    if "gate" in job.result:
        _print_gate(job.result["gate"])
    if job.result.get("released"):
        say(f"release {job.result['release']}: {job.result['candidate_digest'][:12]}")
    else:
        say(f"not released: {job.result.get('why_not', 'it is not done')}")


def _print_gate(report: dict[str, Any]) -> None:
    rows = [("overall", report["incumbent"], report["candidate"])]
    for group in ("per_condition", "per_class"):
        before, after = report["incumbent"][group], report["candidate"][group]
        rows += [(f"{group[4:]} {name}", before[name], after.get(name)) for name in before]
    print_table(
        ("mAP50-95", "objects", "incumbent", "candidate", "change"),
        [
            (
                what,
                str(before["count"]),
                f"{before['map50_95']:.3f}",
                f"{after['map50_95']:.3f}" if after else "-",
                f"{after['map50_95'] - before['map50_95']:+.3f}" if after else "-",
            )
            for what, before, after in rows
        ],
    )
    say("passed" if report["passed"] else "not passed")
    for reason in report["reasons"]:
        say(f"  {reason}")


def _dataset(row: Dataset) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "pictures": row.pictures,
        "boxes": row.boxes,
        "created_at": row.created_at.isoformat(),
        "path": row.path,
        "summary": row.summary,
    }


def _bundle(row: Bundle) -> dict[str, Any]:
    return {
        "digest": row.digest,
        "name": row.name,
        "version": row.version,
        "release": row.release,
        "created_at": row.created_at.isoformat(),
        "released_at": row.released_at.isoformat() if row.released_at else None,
        "dataset_id": row.dataset_id,
        "parent_digest": row.parent_digest,
        "gate": row.gate,
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "stage": job.stage,
        "request": job.request,
        "result": job.result,
        "error": job.error,
    }


def _opened(data: Path) -> Services:
    from edgecase_cloud import services

    return services.open_services(services.effective_settings(data), create=True)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A bar that a `(done, total)` callback moves; only on a terminal."""
    with _bars(quiet=not sys.stderr.isatty()) as bars:
        task = bars.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield tell


def _bars(*, quiet: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<9}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)
