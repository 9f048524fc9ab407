"""`edgecase-cloud`: run the cloud on this machine, add devices to it, look at it, and teach and release models."""

from __future__ import annotations

import contextlib
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecase_cloud import learn_cli
from edgecase_cloud.terminal import Data, Json, one_line, print_json, print_table, say

if TYPE_CHECKING:
    from datetime import datetime

    from edgecase_cloud.services import Endpoints, Services

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
device_app = typer.Typer(no_args_is_help=True, help="Add devices, list them, and shut them out.")
app.add_typer(device_app, name="device")
app.add_typer(learn_cli.app)

SHARED = " (two devices share this identity)"
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one.", show_default=False)]


class Part(StrEnum):
    """What `serve` can run."""

    INGEST = "ingest"
    WEB = "web"
    LEARN = "learn"


@app.command()
def up(
    data: Data,
    host: Annotated[str | None, typer.Option(help="The loopback address to bind to.", show_default=False)] = None,
    web_port: Port = None,
    mqtt_port: Port = None,
    s3_port: Port = None,
) -> None:
    """Start broker, store, ingest, web and learning worker, and keep them running until Ctrl-C."""
    from edgecase_cloud import settings
    from edgecase_cloud.up import Report
    from edgecase_cloud.up import up as run_all

    with one_line():
        chosen = settings.load(data, host=host, web_port=web_port, mqtt_port=mqtt_port, s3_port=s3_port)
        began_s = time.monotonic()
        run_all(chosen, Report(lambda endpoints: _ready(chosen.data, endpoints, time.monotonic() - began_s), say))
    say("stopped")


@device_app.command("add")
def device_add(
    device: Annotated[str, typer.Argument(help="The device's id: 1 to 64 of a-z, 0-9, '_' and '-'.")],
    data: Data,
    as_json: Json = False,
) -> None:
    """Let a device enrol; prints the command that does it, with a token that is good for once."""
    from edgecase_cloud import devices, release, services
    from edgecase_models import wire

    with one_line():
        parts = services.open_services(services.effective_settings(data), create=True)
        if not parts.settings.web_port:
            raise devices.DeviceError("the cloud takes any free port, so start it first: edgecase-cloud up")
        try:
            release.ensure_repository(parts.settings)
        except release.ReleaseError as error:
            raise devices.DeviceError(f"there is nothing for {device} to trust: {error}") from error
        invited = devices.add(parts, device, wire.now())
    running = services.running_endpoints(data) is not None
    if as_json:
        told = {"device": device, "token": str(invited.token), "hub": invited.hub_url, "command": invited.command}
        print_json({**told, "expires_at": invited.expires_at.isoformat(), "running": running})
        return
    say(f"on {device}, until {invited.expires_at:%Y-%m-%d %H:%M} UTC and once:")
    say(f"  {invited.command}")
    if not running:
        say(f"it needs the cloud to run: edgecase-cloud up --data {data}")


@device_app.command("revoke")
def device_revoke(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    data: Data,
) -> None:
    """Shut a device out, at once; what it has sent stays. Added again, it can enrol again."""
    from edgecase_cloud import devices, services
    from edgecase_models import wire

    with one_line():
        devices.revoke(services.open_folder(data), device, wire.now())
    say(f"{device} is revoked; to let it in again: edgecase-cloud device add {device} --data {data}")


@device_app.command("list")
def device_list(data: Data, as_json: Json = False) -> None:
    """Every device: how it is enrolled and until when, and what it last said of itself."""
    from edgecase_cloud import devices, services

    with one_line():
        parts = services.open_folder(data)
        found = [_device(row) for row in devices.every(parts)]
    if as_json:
        print_json(found)
    else:
        print_table(("device", "standing", "until", "online", "last seen", "runs"), [_cells(entry) for entry in found])


@app.command()
def audit(
    data: Data,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many events, the newest last.")] = 50,
    as_json: Json = False,
) -> None:
    """Who was refused and why, and which devices were added, enrolled, renewed and revoked."""
    from edgecase_cloud import audit as audits
    from edgecase_cloud import services

    with one_line():
        found = audits.latest(services.open_folder(data).catalogue, last)
    if as_json:
        print_json([{"at": e.at.isoformat(), "kind": e.kind, "subject": e.subject, "detail": e.detail} for e in found])
        return
    rows = [
        (f"{e.at:%Y-%m-%d %H:%M:%S}", e.kind, e.subject, ", ".join(f"{k} {v}" for k, v in e.detail.items()))
        for e in found
    ]
    print_table(("at (UTC)", "what", "who", "detail"), rows)


@app.command()
def status(data: Data, as_json: Json = False) -> None:
    """How many frames, devices and jobs there are in which state, and whether the cloud runs."""
    from edgecase_cloud import services

    with one_line():
        summary = _summary(services.open_folder(data))
    if as_json:
        print_json(summary)
        return
    rows = [
        ("cloud", "runs" if summary["running"] else "does not run"),
        ("store", f"{'answers' if summary['store']['reachable'] else 'does not answer'}, {_mib(summary)} acknowledged"),
        ("release", str(summary["release"] or "none")),
        *((f"frames {state}", str(count)) for state, count in summary["frames"]["delivery"].items()),
        *((f"review {state}", str(count)) for state, count in summary["frames"]["review"].items()),
        *((f"jobs {state}", str(count)) for state, count in summary["jobs"].items()),
        *((f"events: {kind}", str(count)) for kind, count in summary["events"].items()),
        *((f"device {d['id']}", _standing(d)) for d in summary["devices"]),
    ]
    print_table(("what", "now"), rows)


@app.command()
def reconcile(
    data: Data,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put right what can be; nothing goes but what was forgotten or has expired."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold the catalogue against the store; exit 1 where an acknowledged frame has no object."""
    from edgecase_cloud import services
    from edgecase_cloud.reconcile import reconcile as compare
    from edgecase_cloud.reconcile import repair as put_right
    from edgecase_models import wire

    with one_line():
        parts = services.open_folder(data)
        result, done = compare(parts), None
        if repair:
            done = put_right(parts, result, wire.now())
            result = compare(parts)
    if as_json:
        print_json({**result.as_json(), **({"repaired": done.as_json()} if done else {})})
    else:
        print_table(
            ("what", "count", "first"),
            [
                ("acknowledged frames", str(result.acknowledged), ""),
                ("objects", str(result.objects), ""),
                ("acknowledged, but no object", str(len(result.lost)), *result.lost[:1]),
                ("objects without a row", str(len(result.unknown)), *result.unknown[:1]),
                ("objects whose device is still to report", str(len(result.waiting)), *result.waiting[:1]),
                ("objects that were to go", str(len(result.leftover)), *result.leftover[:1]),
            ],
        )
        for name, value in (done.as_json() if done else {}).items():
            for each in value:
                say(f"left as it is: {each}: {value[each]}" if name == "left" else f"{name}: {each}")
    raise typer.Exit(1 if result.lost else 0)


@app.command()
def batch(
    data: Data,
    size: Annotated[
        int | None, typer.Option(min=1, max=500, help="How many frames; batch_frames by default.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose the batch to label now, put the label queue into its order, and say why each frame stands where it stands."""
    from dataclasses import replace

    from edgecase_cloud import label_queue, services
    from edgecase_models import wire

    with one_line():
        parts = services.open_folder(data)
        rules = parts.settings.batch_rules()
        rules = rules if size is None else replace(rules, frames=size)
        while label_queue.look_at_frames(parts.catalogue):
            pass
        chosen = label_queue.reorder(parts.catalogue, rules, wire.now())
    if as_json:
        print_json(label_queue.as_json(chosen))
        return
    print_table(
        ("rank", "frame", "quota", "s", "why"),
        [(str(p.rank), p.id, p.quota.value, f"{p.cost_s:.0f}", p.reason) for p in chosen.picks],
    )
    say(
        f"{len(chosen.picks)} of {chosen.waiting} frames that wait, about {chosen.cost_s / 60:.0f} min of labelling; "
        f"{len(chosen.repeats)} repeat others and stand last"
    )


@app.command()
def forget(
    data: Data,
    device: Annotated[str, typer.Option(help="The frames of this device.")] = "",
    time: Annotated[
        str, typer.Option(help="Frames taken then: FROM..TO, as 2026-03-04T10:00Z..2026-03-04T11:00Z.")
    ] = "",
    frame: Annotated[str, typer.Option(help="This one frame, by its id.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove frames everywhere: objects, rows, answers, dataset files. Leaves an audit row; what is offered again is declined."""
    from dataclasses import asdict

    from edgecase_cloud import forgetting, here
    from edgecase_models import wire

    with one_line(), here.with_store(data) as parts:
        scope = forgetting.Scope(device, *_stretch(time), frame)
        extent = forgetting.extent(parts, scope)
        if not as_json:
            say(
                f"{extent.frames} frames, {extent.pictures} of them with a picture here ({extent.size_bytes / (1 << 20):.1f} MiB) and "
                f"{extent.labelled} with an answer; {len(extent.datasets)} dataset versions hold some"
            )
        if dry_run:
            if as_json:
                print_json(asdict(extent))
            return
        if not yes:
            typer.confirm("Forget them for good?", abort=True)
        forgetting.order(parts, scope, wire.now())
        audits = forgetting.carry_out(parts, wire.now)
    if as_json:
        print_json([audit.detail for audit in audits])
    for audit in audits if not as_json else ():
        models = ", ".join(str(each["release"] or each["digest"][:12]) for each in audit.detail.get("models", []))
        say(
            f"forgotten: {audit.detail.get('frames', 0)} frames{f'; models that learnt from them: {models}' if models else ''}"
        )


def _stretch(text: str) -> tuple[datetime | None, datetime | None]:
    from datetime import datetime

    from edgecase_cloud.forgetting import ForgetError

    if not text:
        return None, None
    try:
        begin, end = (datetime.fromisoformat(each) for each in text.split(".."))
    except ValueError as error:
        raise ForgetError(f"--time {text!r} is not FROM..TO, as 2026-03-04T10:00Z..2026-03-04T11:00Z") from error
    if begin.tzinfo is None or end.tzinfo is None:
        raise ForgetError(f"--time {text!r} has no zone; end both with Z for UTC")
    return begin, end


@app.command(hidden=True)
def serve(part: Part, data: Data) -> None:
    """One part of the cloud, as `up` starts it: its settings are in the environment."""
    from edgecase_cloud import log, processes

    processes.end_with_parent()
    log.configure(part)
    with one_line():
        if part is Part.WEB:
            _serve_web(data)
        elif part is Part.INGEST:
            _serve_ingest(data)
        else:
            _serve_learn(data)


def _serve_web(data: Path) -> None:
    import uvicorn

    from edgecase_cloud import services, settings
    from edgecase_cloud.web.app import create_app

    parts = services.open_services(settings.load(data))
    uvicorn.run(
        create_app(parts),
        host=parts.settings.host,
        port=parts.settings.web_port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )


def _serve_ingest(data: Path) -> None:
    from edgecase_cloud import broker, devices, durable, mqtt, private, services, settings
    from edgecase_cloud.ingest import Ingest
    from edgecase_models import wire

    # One quick try: a question that the store does not answer is asked again later, and others go first meanwhile.
    parts = services.open_services(settings.load(data), store_timeout_s=3.0, store_attempts=1)
    chosen, keys = parts.settings, parts.settings.path("keys")
    authority = devices.an_authority(parts)
    credential = authority.for_client(keys / broker.INGEST_CREDENTIAL, broker.INGEST, wire.now())
    link = mqtt.Link(
        chosen.host,
        chosen.mqtt_port,
        broker.client_context(authority.path, credential),
        private.secret(keys / "ingest-session", 12),  # not to be guessed: who has it can take the session over
    )
    strict = chosen.durability == "strict"
    make_durable = durable.sync_filesystem(chosen.data) if strict else durable.trust_the_kernel
    worker = mqtt.Worker(Ingest(parts, make_durable=make_durable), link)
    mqtt.run(link, worker, mqtt.Poker(parts.catalogue, link), _stop_event())


def _serve_learn(data: Path) -> None:
    import threading

    from edgecase_cloud import processes

    processes.give_way()  # frames come in first: before the imports, which take seconds of a slow machine

    from edgecase_cloud import label_queue, learner, services, settings, upkeep

    parts, stop = services.open_services(settings.load(data)), _stop_event()
    # Threads of their own: a training lasts for hours, and it happens in a process of its own, so this one has time.
    others = [
        threading.Thread(target=part.run, args=(parts, stop), name=part.__name__) for part in (label_queue, upkeep)
    ]
    for thread in others:
        thread.start()
    try:
        learner.run(parts, stop)
    finally:
        stop.set()
        for thread in others:
            thread.join()


def _stop_event() -> Any:
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _summary(parts: Services) -> dict[str, Any]:
    import sqlalchemy as sa

    from edgecase_cloud import devices, services
    from edgecase_cloud.catalogue import Bundle, Delivery, Event, Frame, Job, JobState, Review
    from edgecase_cloud.store import StoreError

    def counted(column: Any, states: type[StrEnum] | None = None) -> dict[str, int]:
        found = {
            str(value): count for value, count in session.execute(sa.select(column, sa.func.count()).group_by(column))
        }
        return {**({state.value: 0 for state in states} if states else {}), **found}

    with parts.catalogue.session() as session:
        frames = {"delivery": counted(Frame.delivery, Delivery), "review": counted(Frame.review, Review)}
        jobs, events = counted(Job.state, JobState), counted(Event.kind)
        release = session.scalar(sa.select(sa.func.max(Bundle.release)))
        size_bytes = session.scalar(
            sa.select(sa.func.sum(Frame.size_bytes)).where(Frame.delivery == Delivery.ACKNOWLEDGED)
        )
    running = services.running_endpoints(parts.settings.data)
    reachable = False
    if running is not None:
        with contextlib.suppress(StoreError):
            reachable = next(parts.store.keys("frames/"), "") is not None
    return {
        "running": None if running is None else vars(running),
        "frames": frames,
        "devices": [_device(row) for row in devices.every(parts)],
        "jobs": jobs,
        "release": release,
        "store": {"reachable": reachable, "acknowledged_bytes": size_bytes or 0},
        "events": events,
    }


def _device(row: Any) -> dict[str, Any]:
    from edgecase_cloud import devices, twins
    from edgecase_models import wire

    ends = row.certificate_expires_at
    return {
        "id": row.id,
        "standing": devices.standing(row, wire.now()).value,
        "certificate_expires_at": ends.isoformat() if ends else None,
        "online": row.online,
        "last_seen_at": row.last_seen_at.isoformat() if row.last_seen_at else None,
        "running_digest": row.running_digest,
        "added_at": row.added_at.isoformat(),
        "shared_at": row.shared_at.isoformat() if twins.is_flagged(row.shared_at, wire.now()) else None,
        "status": row.status,
    }


def _standing(entry: dict[str, Any]) -> str:
    return f"{'online' if entry['online'] else 'offline'}{SHARED if entry['shared_at'] else ''}"


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    seen = (entry["last_seen_at"] or "never")[:19]
    until = (entry["certificate_expires_at"] or "")[:10]
    name = entry["id"] + (SHARED if entry["shared_at"] else "")
    return name, entry["standing"], until, "yes" if entry["online"] else "no", seen, entry["running_digest"][:12]


def _mib(summary: dict[str, Any]) -> str:
    return f"{summary['store']['acknowledged_bytes'] / (1 << 20):.1f} MiB"


def _ready(data: Path, endpoints: Endpoints, seconds: float) -> None:
    say(f"ready after {seconds:.1f} s: {endpoints.web}")
    for name, value in (
        ("pages", endpoints.web),
        ("mqtt", f"{endpoints.mqtt_host}:{endpoints.mqtt_port}"),
        ("store", endpoints.s3),
        ("data", data),
        ("device", f"edgecase-cloud device add ID --data {data}"),
    ):
        say(f"  {name:<7}{value}")
    say("Ctrl-C stops everything")
