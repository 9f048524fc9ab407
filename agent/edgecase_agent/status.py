"""How the device is: what its loops wrote of themselves and what the spool counts, for the cloud and for a person."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from edgecase_agent import durable
from edgecase_agent.frames import boot_id
from edgecase_agent.slots import Slots
from edgecase_agent.spool import Look, Spool
from edgecase_models import wire

STATE: Final = "state"
WATCH, UPLINK, UPDATE = "watch.json", "uplink.json", "update.json"

T = TypeVar("T")


class WatchReport(msgspec.Struct, frozen=True):
    """What is read of `watch.json`; the watch loop writes more than this."""

    frames_seen: wire.Count = 0
    frames_skipped: wire.Count = 0
    frames_per_s: float = 0.0
    jpeg_bytes_seen: wire.Count = 0
    running_digest: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    policy_digest: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    policy_failure: str = ""


class UplinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """`uplink.json`: how the device's line is. `refused`: why the broker does not let it in. `waits_for`: what holds pictures up."""

    at: datetime
    pid: int
    connected: bool
    session: str = ""
    refused: str = ""
    in_flight: int = 0
    messages_dropped: int = 0
    waits_for: str = ""


class UpdateReport(msgspec.Struct, frozen=True, kw_only=True):
    """`update.json`: what the update loop last came to, in one word and in a sentence; `policy`, what it came to with policies.

    `policy_refused`: why the hub's policy is not to be followed here. `identity_problem`: why its certificate is not renewed.
    """

    at: datetime
    pid: int
    outcome: str
    why: str = ""
    policy: str = ""
    policy_refused: str = ""
    identity_problem: str = ""


def read(path: Path, kind: type[T]) -> T | None:
    """A loop's report; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def write(path: Path, report: msgspec.Struct) -> None:
    """Replace a loop's report; a full disk is no reason to end a loop that could make room."""
    try:
        durable.replace_lazily(path, msgspec.json.encode(report))
    except OSError as error:
        if not durable.is_full(error):
            raise


def message(
    data: Path, device: str, spool: Spool, at: datetime, session: str, *, online: bool = True, waits_for: str = ""
) -> wire.Status:
    """What the device says of itself to the cloud."""
    state = data / STATE
    watch = read(state / WATCH, WatchReport) or WatchReport()
    update = read(state / UPDATE, UpdateReport)
    said = "" if update is None else f"{update.outcome}: {update.why}".rstrip(": ")
    last = "".join(f"{event.kind} {event.frame_id}: {event.reason}" for event in spool.events(1))
    problem = watch.policy_failure or ("" if update is None else update.policy_refused)
    return wire.Status(
        device=device,
        online=online,
        session=session,
        at=at,
        agent_version=version(),
        running_digest=watch.running_digest,
        update=said[:200],
        frames_seen=watch.frames_seen,
        frames_skipped=watch.frames_skipped,
        frames_per_s=watch.frames_per_s,
        jpeg_bytes_seen=watch.jpeg_bytes_seen,
        bytes_sent=spool.bytes_sent,
        spool_bytes=spool.bytes_on_disk,
        balance=spool.balance(),
        policy_digest=watch.policy_digest or msgspec.UNSET,
        policy_problem=problem[:200] or msgspec.UNSET,
        run=run_id(),
        boot_id=boot_id(),
        monotonic_ns=time.monotonic_ns(),
        waits_for=waits_for[:200] or msgspec.UNSET,
        last_event=last[:200] or msgspec.UNSET,
    )


@lru_cache(maxsize=1)
def run_id() -> str:
    """Names this process; a copy of the device's memory card has another."""
    return secrets.token_hex(8)


def version() -> str:
    """Of this software."""
    try:
        return metadata.version("edgecase")
    except metadata.PackageNotFoundError:
        return ""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `edgecase-agent status` shows. A loop that has never run has an empty report."""

    watch: dict[str, Any]
    uplink: UplinkReport | None
    update: UpdateReport | None
    active: dict[str, Any]
    balance: wire.Balance
    bytes_sent: int
    spool_bytes: int
    events: list[dict[str, str]]


def overview(data: Path) -> Overview:
    """The device as its files show it; it need not be running."""
    state = data / STATE
    look: Look = Spool.look(data / "spool")
    active = Slots(data / "slots").active()
    return Overview(
        watch=read(state / WATCH, dict[str, Any]) or {},
        uplink=read(state / UPLINK, UplinkReport),
        update=read(state / UPDATE, UpdateReport),
        active={}
        if active is None
        else {name: getattr(active, name) for name in ("slot", "digest", "release", "by_hand")},
        balance=look.balance,
        bytes_sent=look.bytes_sent,
        spool_bytes=look.bytes_on_disk,
        events=[{"at": e.at, "kind": e.kind, "frame_id": e.frame_id, "reason": e.reason} for e in look.events],
    )
