"""Whether this device could do its work: each part is tried for real, and what fails comes with its cure."""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edgecase_agent import durable
from edgecase_agent.identity import AGAIN
from edgecase_agent.settings import (
    AgentSettings,
    Enrolment,
    SettingsError,
    device_of,
    load_enrolment,
    load_settings,
    names_of,
)

if TYPE_CHECKING:
    from edgecase_agent.redaction import Terms
    from edgecase_models.bundle import Bundle
    from edgecase_models.detector import Runtime

_FRAME_WITHIN_S: Final = 20.0
_BROKER_WITHIN_S: Final = 10.0
_SLOW_SYNC_MS: Final = 200.0


class Finding(msgspec.Struct, frozen=True):
    """What was tried, whether it works (None: not needed here), and what was seen or what to do."""

    name: str
    ok: bool | None
    detail: str


class _Wrong(Exception):
    """The check failed; the message says what to do."""


def every(config: Path) -> Iterator[Finding]:
    """All findings, one by one as they are made."""
    try:
        settings = load_settings(config)
        enrolment = load_enrolment(settings)
    except SettingsError as error:
        yield Finding("configuration", ok=False, detail=str(error))
        return
    yield Finding("configuration", ok=True, detail=str(config))
    yield _tried("disk", lambda: _disk(settings))
    model = _tried("model", lambda: _model(settings))
    yield model
    yield (
        _tried("policy", lambda: _policy(settings, enrolment))
        if model.ok
        else Finding("policy", ok=None, detail="not tried without a model")
    )
    yield _privacy(settings, model)
    yield _tried("source", lambda: _source(settings))
    if enrolment is None:
        yield Finding("broker", ok=None, detail="no enrolment is set: frames stay here")
        yield Finding("hub", ok=None, detail="no enrolment is set: models do not change")
        return
    yield _tried("broker", lambda: _broker(enrolment))
    yield _tried("hub", lambda: _hub(settings, enrolment))


def _tried(name: str, check: Callable[[], str]) -> Finding:
    from edgecase_agent.assemble import fatal_to_watch

    failures: tuple[type[Exception], ...] = (_Wrong, OSError, durable.StorageFailed, *fatal_to_watch())
    try:
        return Finding(name, ok=True, detail=check())
    except failures as error:
        return Finding(name, ok=False, detail=str(error).removeprefix(f"{name} "))


def _disk(settings: AgentSettings) -> str:
    settings.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.data, prefix="check-") as name:
        start = time.perf_counter()
        durable.replace(Path(name) / "file", bytes(100_000))
        took_ms = (time.perf_counter() - start) * 1e3
    free = shutil.disk_usage(settings.data).free
    if free < settings.spool.min_free_bytes:
        raise _Wrong(
            f"{free / 1e6:,.0f} MB free, less than spool.min_free_bytes = {settings.spool.min_free_bytes / 1e6:,.0f} MB: "
            "free some space, or lower it"
        )
    slow = "; a slow disk, frames will wait for it" if took_ms > _SLOW_SYNC_MS else ""
    return f"{free / 1e9:,.1f} GB free; 100 kB are durable in {took_ms:.0f} ms{slow}"


def _bundle(settings: AgentSettings) -> tuple[Bundle, Runtime]:
    """The model that runs, or is to run first, and how."""
    from edgecase_agent.slots import Slots
    from edgecase_models.bundle import Bundle
    from edgecase_models.detector import Runtime

    active = Slots(settings.data / "slots").active()
    bundle = Bundle.open(settings.model.bundle if active is None else active.path)
    return bundle, Runtime(settings.model.threads, settings.model.spinning, settings.model.providers)


def _model(settings: AgentSettings) -> str:
    bundle, runtime = _bundle(settings)
    start = time.perf_counter()
    bundle.verify_golden(runtime)
    took_s = time.perf_counter() - start
    manifest = bundle.manifest
    return (
        f"{manifest.name} {manifest.version} ({bundle.digest[:12]}), {len(manifest.classes)} classes, "
        f"golden pictures come out right ({took_s:.1f} s)"
    )


def _policy(settings: AgentSettings, enrolment: Enrolment | None) -> str:
    """Its committee's bundle is loaded, its conditions are compiled, and its strategy is held against the model."""
    from edgecase_agent.by_policy import a_judge, must_suit, rules_of
    from edgecase_agent.running import model_of
    from edgecase_agent.selection import Selection
    from edgecase_models.strategy import Trigger

    policy, (bundle, runtime) = settings.policy, _bundle(settings)
    model = model_of(bundle, bundle.detector(runtime))
    must_suit(policy, model)
    judge = a_judge(
        policy, Selection[None](rules_of(policy)), runtime, device_of(settings, enrolment), settings.cohorts
    )
    committee = f"committee {policy.committee.member}" if judge.has_committee else "no committee"
    said = [f"strategy {judge.strategy}", committee]
    if policy.campaigns and not policy.selection.may_pick(Trigger.CAMPAIGN):
        said.append('campaigns rest, since "campaign" is not among selection.triggers')
    elif policy.campaigns:
        ours = judge.campaigns
        said.append(
            f"{len(ours)} of {len(policy.campaigns)} campaigns for this device" + ": " * bool(ours) + ", ".join(ours)
        )
    if not model.gives_features and (Trigger.NOVELTY in policy.selection.triggers or policy.selection.novelty_weight):
        said.append("novelty counts for nothing, since the model gives no features: pack it with --features")
    return "; ".join(said)


def _privacy(settings: AgentSettings, model: Finding) -> Finding:
    """What leaves of a kept frame. That pictures leave as they are is no fault, and is said in any case."""
    from edgecase_agent.assemble import redaction_terms

    where = settings.privacy.position_decimals
    position = "no position" if where is None else f"positions to {where} decimals of a degree"
    terms = redaction_terms(settings)
    if terms is None:
        return Finding(
            "privacy", ok=None, detail=f"off: pictures leave UNREDACTED, faces and plates as they are; {position}"
        )
    if not model.ok:
        return Finding("privacy", ok=None, detail="not tried without a model")
    return _tried("privacy", lambda: f"{_redaction(settings, terms)}; {position}")


def _redaction(settings: AgentSettings, terms: Terms) -> str:
    from edgecase_agent.redaction import Mode, Redactor

    bundle, runtime = _bundle(settings)
    finder = Redactor(terms, runtime).suits(bundle.manifest.classes)
    found = [", ".join(terms.classes)] if terms.classes else []
    if finder is not None:
        found.append(
            f"what {terms.bundle} ({finder.digest[:12]}) finds, {', '.join(finder.names[:10])}{', …' * (len(finder.names) > 10)}"
        )
    done = {Mode.BLUR: "painted over", Mode.DROP: "a reason to keep a frame's pixels here"}[terms.mode]
    return f"{terms.mode}: {' and '.join(found)}, from a score of {terms.min_score:g} on, {done}; without it no pixels leave"


def _source(settings: AgentSettings) -> str:
    """One frame, taken in a thread: a camera that is not there would let us wait for ever."""
    from edgecase_agent.source import open_source, shown

    source = open_source(settings.source.uri, live=settings.source.live)
    found: queue.Queue[object] = queue.Queue()

    def take() -> None:
        try:
            found.put(next(iter(source), None))
        except Exception as error:  # noqa: BLE001 (handed to whoever waits)
            found.put(error)

    threading.Thread(target=take, daemon=True).start()
    try:
        frame = found.get(timeout=_FRAME_WITHIN_S)
    except queue.Empty:
        raise _Wrong(
            f"source {shown(settings.source.uri)}: no picture within {_FRAME_WITHIN_S:.0f} s; check address and cable"
        ) from None
    finally:
        source.close()
    if isinstance(frame, Exception):
        raise frame
    if frame is None:
        raise _Wrong(f"source {shown(settings.source.uri)}: holds no picture")
    height, width = frame.hw_px  # type: ignore[attr-defined]
    return f"{source.name}: pictures of {width} x {height}"


def _broker(enrolment: Enrolment) -> str:
    """A login beside the uplink's, under a name of its own: a broker lets each name in once."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    from edgecase_models import wire

    heard: queue.Queue[str] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, f"{enrolment.device[:48]}-check-{secrets.token_hex(3)}")
    client.tls_set_context(enrolment.identity.context())
    client.on_connect = lambda _c, _d, _f, reason, _p: heard.put(f"not let in: {reason}" if reason.is_failure else "")
    client.on_disconnect = lambda *_: heard.put("it hangs up, as on a certificate that it does not take")
    client.on_subscribe = lambda _c, _d, _m, reasons, _p: heard.put(
        "its topics may not be read" if any(reason.is_failure for reason in reasons) else ""
    )
    address, valid = f"{enrolment.mqtt_host}:{enrolment.mqtt_port}", enrolment.identity.validity()
    if problem := valid.problem(wire.now()):
        raise _Wrong(problem)
    if not os.access(enrolment.identity.folder, os.W_OK):
        raise _Wrong(f"{enrolment.identity.folder}: the agent must be able to write there, to renew its certificate")
    try:
        client.connect(enrolment.mqtt_host, enrolment.mqtt_port)
    except ssl.SSLCertVerificationError as error:
        raise _Wrong(
            f"{address}: not the broker of our cloud ({error.verify_message}); check the clock, or {AGAIN}"
        ) from error
    except OSError as error:
        raise _Wrong(f"{address}: cannot be reached ({error}); is the cloud running, and the address right?") from error
    client.loop_start()
    try:
        _heard(heard, address, enrolment)
        client.subscribe(wire.down_topic(enrolment.device, "+"), qos=1)
        _heard(heard, address, enrolment)
    finally:
        client.disconnect()
        client.loop_stop()
    return f"{address}: {enrolment.device} is let in, until {valid.ends:%Y-%m-%d}"


def _heard(heard: queue.Queue[str], address: str, enrolment: Enrolment) -> None:
    try:
        problem = heard.get(timeout=_BROKER_WITHIN_S)
    except queue.Empty:
        problem = f"no answer within {_BROKER_WITHIN_S:.0f} s"
    if problem:
        raise _Wrong(f"{address}: {enrolment.device}: {problem}; if it was revoked or enrolled anew, {AGAIN}")


def _hub(settings: AgentSettings, enrolment: Enrolment) -> str:
    """With a trust folder of its own: that of the update loop belongs to that loop."""
    from edgecase_agent.trust import Trust, Unreachable, Untrusted

    with tempfile.TemporaryDirectory(prefix="edgecase-check-") as name:
        chosen = settings.update
        trust = Trust(
            Path(name),
            enrolment.hub_url,
            enrolment.root,
            max_bundle_bytes=chosen.max_bundle_bytes,
            cohorts=names_of(settings, enrolment),
        )
        try:
            channel = trust.look().channel()
        except Unreachable as error:
            raise _Wrong(f"{enrolment.hub_url}: cannot be reached ({error}); is the cloud running?") from error
        except Untrusted as error:
            raise _Wrong(f"{enrolment.hub_url}: {error}; check the clock, or {AGAIN}") from error
    if channel is None:
        return f"{enrolment.hub_url}: trusted; nothing was released yet"
    return f"{enrolment.hub_url}: trusted; release {channel.release} is {channel.name} {channel.version}"
