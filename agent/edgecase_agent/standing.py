"""How a device stands, in lines for a person: what `edgecase-agent status` shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from edgecase_agent.status import Overview, UplinkReport
from edgecase_models import wire

PROBLEM: Final = "problem"
_SILENT_S: Final = 15.0
_MOST_EVENTS: Final = 5
_MOST_CAUSES: Final = 3
_ENDS: Final = {
    "acknowledged": "acknowledged",
    "spooled": "waiting here",
    "evicted": "evicted",
    "rejected": "rejected",
    "declined": "declined",
    "lost_local": "lost here",
}


def lines(seen: Overview, now: datetime) -> Iterator[tuple[str, str]]:
    """Names and what is to say of each; those called `PROBLEM` want a person."""
    watched = seen.watch
    yield "model", _model(seen)
    if watched.get("policy"):
        yield "policy", f"{watched['policy']} ({watched.get('policy_digest', '')[:12]})"
    if watched:
        yield from _watch(watched, now)
    else:
        yield "watch", "has not run here"
    yield "kept", _kept(seen.balance)
    yield "spool", f"{_size(seen.spool_bytes)} on disk, {_size(seen.bytes_sent)} sent"
    if seen.uplink is not None:
        yield "uplink", _stopped(seen.uplink.at, now) or _uplink(seen.uplink)
    if seen.update is not None:
        yield "update", f"{seen.update.outcome}: {seen.update.why} ({_utc(seen.update.at)})"
    for refused in () if seen.update is None else (seen.update.policy_refused, seen.update.identity_problem):
        if refused:
            yield PROBLEM, refused
    for name in (
        "model_failure",
        "policy_failure",
        "strategy_failure",
        "telemetry_problem",
        "privacy_failure",
        "problem",
    ):
        if watched.get(name):
            yield PROBLEM, str(watched[name])
    for event in seen.events[:_MOST_EVENTS]:
        yield "event", f"{event['at'][:19]} {event['kind']} {event['frame_id']}: {event['reason']}"


def _model(seen: Overview) -> str:
    running = str(seen.watch.get("running_digest", ""))[:12]
    if not seen.active:
        return running or "none yet"
    laid_down = seen.active["digest"][:12]
    release = "placed by hand" if seen.active["by_hand"] else f"release {seen.active['release']}"
    where = f"{release}, slot {seen.active['slot']}"
    if laid_down == running:
        return f"{running}, {where}"
    return f"{running or 'none has run yet'}; {laid_down}, {where}, is laid down to run"


def _watch(watched: dict[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    count = {name: value for name, value in watched.items() if isinstance(value, int)}
    said = (f"{watched.get('source', '')}: {watched.get('source_state', '')}", _stopped(_moment(watched), now))
    yield "watch", "; ".join(part for part in said if part)
    dropped = count.get("frames_failed", 0)
    yield (
        "frames",
        f"{_frames(count.get('frames_seen', 0))} seen at {watched.get('frames_per_s', 0.0):.3g} a second, "
        f"{count.get('frames_skipped', 0):,} skipped" + (f", {dropped:,} dropped" if dropped else ""),
    )
    yield "picked", _picked(watched, count)
    yield "privacy", _privacy(watched, count)
    passed = sorted(watched.get("passed", {}).items(), key=lambda each: -each[1])[:_MOST_CAUSES]
    if passed:
        yield "let go", "; ".join(f"{number:,} {cause}" for cause, number in passed)
    yield "second looks", _second_looks(count)
    if told := watched.get("telemetry"):
        broken = f"{told['broken']:,} broken or missing, {told['stale']:,} grown stale"
        yield "telemetry", f"{told['read']:,} read, {broken}, {told['refused']:,} values left out"


def _uplink(report: UplinkReport) -> str:
    state = "connected" if report.connected else report.refused or "not connected"
    waits = f"; pictures wait for {report.waits_for}" if report.waits_for else ""
    return f"{state}, {_frames(report.in_flight)} on the way{waits}"


def _picked(watched: dict[str, Any], count: dict[str, int]) -> str:
    parts = [f"{_frames(count.get('selected', 0))}, ranked by {watched.get('strategy') or 'nothing yet'}"]
    parts += [
        f"{count[name]:,} {what}"
        for name, what in (
            ("audited", "of them at random"),
            ("beside", "went with them"),
            ("not_spooled", "found no room"),
        )
        if count.get(name)
    ]
    return "; ".join(parts)


def _privacy(watched: dict[str, Any], count: dict[str, int]) -> str:
    mode = watched.get("privacy", "off")
    if mode == "off":
        return "off: frames leave as they are"
    return f"{mode}: {_frames(count.get('redacted', 0))} painted over, {count.get('withheld', 0):,} kept without their pixels"


def _second_looks(count: dict[str, int]) -> str:
    parts = [f"{count.get('second_looks', 0):,}"]
    parts += [
        f"{count[name]:,} {what}"
        for name, what in (("second_looks_failed", "failed"), ("without_chance", "frames could not have got one"))
        if count.get(name)
    ]
    return ", ".join(parts)


def _kept(balance: wire.Balance) -> str:
    ends = [(getattr(balance, name), said) for name, said in _ENDS.items()]
    parts = " + ".join(f"{number:,} {said}" for number, said in ends if number)
    return f"{_frames(balance.kept)} = {parts}" if parts else _frames(balance.kept)


def _moment(watched: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(watched.get("at")))
    except ValueError:
        return None


def _stopped(at: datetime | None, now: datetime) -> str:
    """Empty for a loop that runs: it writes every few seconds, so that what is older was written by one that runs no more."""
    if at is None or (now - at).total_seconds() < _SILENT_S:
        return ""
    return f"does not run, last at {_utc(at)}"


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _frames(number: int) -> str:
    return f"{number:,} frame" + ("" if number == 1 else "s")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.0f} kB"
