"""The three loops, each put together from the settings and run until it is told to stop. They share nothing but files."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from msgspec.structs import replace

from edgecase_agent import log as logs
from edgecase_agent import status
from edgecase_agent.identity import IdentityError
from edgecase_agent.settings import AgentSettings, Enrolment, SettingsError, device_of, load_enrolment, names_of
from edgecase_agent.slots import SlotError, Slots
from edgecase_agent.spool import DiskFull, Spool, Sweep
from edgecase_agent.spool_open import SpoolError
from edgecase_models import wire

if TYPE_CHECKING:
    from edgecase_agent.mqtt import MqttLink
    from edgecase_agent.redaction import Redactor, Terms
    from edgecase_agent.running import RunningModel
    from edgecase_agent.uplink import Uplink
    from edgecase_agent.watch import Watch
    from edgecase_models.detector import Runtime
    from edgecase_models.policy import Policy

POLICIES: Final = "policy"
ALLOWANCE: Final = "allowance.json"
"""The folder of the accepted policy, in the data folder."""
_REPORT_S = 1.0
_LAST_UPLOADS_S = 3.0
_DISK_FULL_S = 5.0

log = structlog.get_logger()


# What a person must put right: one line and exit code 2. Everything else is a crash, after which the supervisor starts again.
FATAL: tuple[type[Exception], ...] = (SettingsError, SpoolError, IdentityError)


def fatal_to_watch() -> tuple[type[Exception], ...]:
    """The same for the loop that looks; only that one pays for loading what they belong to."""
    from edgecase_agent.redaction import RedactionError
    from edgecase_agent.rules import RulesError
    from edgecase_agent.running import ModelError
    from edgecase_agent.source import SourceError
    from edgecase_models.bundle import BundleError
    from edgecase_models.detector import DetectorError
    from edgecase_models.policy import PolicyError

    return (
        *FATAL,
        SlotError,
        SourceError,
        ModelError,
        PolicyError,
        RulesError,
        RedactionError,
        BundleError,
        DetectorError,
    )


def a_watch(settings: AgentSettings, spool: Spool) -> Watch:
    """Source, model, judge and sink as configured, the judge by the accepted policy where there is one.

    `PolicyError` where the settings ask what the model placed by hand cannot give; one that was released must not stop the camera.
    """
    from edgecase_agent import watch_status
    from edgecase_agent.by_policy import a_judge, must_suit, rules_of
    from edgecase_agent.in_force import InForce
    from edgecase_agent.judge import Judge
    from edgecase_agent.orders import PolicyFile
    from edgecase_agent.redaction import Redactor
    from edgecase_agent.running import OtherSlot
    from edgecase_agent.selection import Selection, SelectionState
    from edgecase_agent.source import open_source
    from edgecase_agent.telemetry import Telemetry
    from edgecase_agent.watch import Shot, Watch, WatchOptions
    from edgecase_models.detector import Runtime

    state = settings.data / status.STATE
    state.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(settings.model.threads, settings.model.spinning, settings.model.providers)
    slots = Slots(settings.data / "slots")
    model = a_model(settings, runtime)
    active = slots.active()
    if active is not None and active.by_hand:
        must_suit(settings.policy, model.current)
    source = open_source(settings.source.uri, live=settings.source.live, max_fps=settings.source.max_fps)
    options = WatchOptions(
        camera=settings.source.camera,
        jpeg_quality=settings.jpeg.quality,
        jpeg_sample_every=settings.jpeg.sample_every,
        position_decimals=settings.privacy.position_decimals,
    )
    other = OtherSlot(slots, runtime)
    enrolment = load_enrolment(settings)
    device = device_of(settings, enrolment)

    def make(policy: Policy, spent: SelectionState | None) -> Judge[Shot]:
        rules = rules_of(policy)
        selection = Selection(rules, spent or watch_status.read_selection(state, rules), Shot.compact)
        return a_judge(policy, selection, runtime, device, settings.cohorts, other.current)

    follows = enrolment is not None and settings.update.policies
    in_force = InForce(settings.policy, make, PolicyFile(settings.data / POLICIES) if follows else None)
    told = settings.telemetry
    telemetry = None if told.file is None else Telemetry(told.file, told.max_age_s)
    terms = redaction_terms(settings)
    redactor = None if terms is None else Redactor(terms, runtime)
    if redactor is not None:
        _must_search(redactor, model, by_hand=active is not None and active.by_hand)
    return Watch(source, model, in_force.start(), spool, state, options, telemetry, in_force, redactor)


def redaction_terms(settings: AgentSettings) -> Terms | None:
    """What must not be seen, as configured; None where frames leave as they are."""
    from edgecase_agent.redaction import Mode, Terms

    chosen = settings.privacy
    if chosen.redacts is None:
        return None
    return Terms(
        mode=Mode(chosen.redacts),
        classes=chosen.classes,
        bundle=chosen.bundle,
        bundle_classes=chosen.bundle_classes,
        min_score=chosen.min_score,
        margin=chosen.margin,
        tile_px=chosen.tile_px,
    )


def _must_search(redactor: Redactor, model: RunningModel, *, by_hand: bool) -> None:
    """`RedactionError` for a class that the model placed by hand does not know, which is a slip of the pen.

    Anything else does not stop the camera: frames are kept without their pixels until it is put right.
    """
    from edgecase_agent.redaction import RedactionError

    if by_hand:
        redactor.must_know(model.current.names)
    try:
        redactor.suits(model.current.names)
    except RedactionError as error:
        log.error("frames are kept without their pixels", reason=str(error))  # noqa: TRY400


def a_model(settings: AgentSettings, runtime: Runtime) -> RunningModel:
    """The active model; where it cannot be loaded although it is whole, the one before it."""
    from edgecase_agent.running import BundleSlot, ModelError, RunningModel
    from edgecase_agent.update import set_apart
    from edgecase_models.bundle import BundleError

    slots = Slots(settings.data / "slots")
    active = slots.start(settings.model.bundle)
    try:
        return RunningModel(BundleSlot(slots, runtime))
    except (ModelError, BundleError) as error:
        if slots.step_back(active) is None:
            raise
        log.error("model cannot be loaded; the one before it runs", digest=active.digest, reason=str(error))  # noqa: TRY400
        set_apart(settings.data / status.STATE, active.digest, active.release, str(error))
        return RunningModel(BundleSlot(slots, runtime))


def watch(settings: AgentSettings, stopped: threading.Event) -> None:
    """Look at the source until it ends."""
    from edgecase_agent import watch as loop

    logs.configure("watch", settings.log_level)
    with _spool(settings, putting=True) as spool:
        if spool.swept != Sweep():
            log.warning("spool put right after a crash", **vars(spool.swept))
        loop.run(a_watch(settings, spool), stopped)


def uplink(settings: AgentSettings, stopped: threading.Event) -> None:
    """Bring what is spooled to the cloud."""
    from edgecase_agent.allowance import Allowance, Limits
    from edgecase_agent.bandwidth import Bandwidth, Metered, Pace, Window
    from edgecase_agent.mqtt import Login, MqttLink
    from edgecase_agent.transfer import HttpStore, Transfers
    from edgecase_agent.update import note_poke
    from edgecase_agent.uplink import Idle, Moment, Uplink

    logs.configure("uplink", settings.log_level)
    who, chosen, data = _enrolled(settings), settings.uplink, settings.data
    state = data / status.STATE
    state.mkdir(parents=True, exist_ok=True)
    wake = threading.Event()
    login = Login(who.mqtt_host, who.mqtt_port, who.identity)
    link = MqttLink(login, who.device, wake=wake.set, keepalive_s=chosen.keepalive_s)
    pace = None if chosen.bytes_per_s is None else Pace(chosen.bytes_per_s)
    limits = Limits(chosen.bytes_per_day, chosen.bytes_per_month, chosen.metered_bytes_per_day)
    bandwidth = Bandwidth(
        Allowance(data / ALLOWANCE, limits, Moment.now().reading),
        windows=[Window.read(window) for window in chosen.windows],
        metered=Metered(chosen.metered, chosen.metered_file),
        pace=pace,
    )
    store = HttpStore(connect_s=chosen.connect_timeout_s, answer_s=chosen.answer_timeout_s, pace=pace)
    uploads = Transfers(store.put, at_once=chosen.uploads_at_once, wake=wake.set)
    with _spool(settings) as spool:
        loop = Uplink(
            who.device,
            spool,
            link,
            uploads,
            status=lambda at, session: status.message(data, who.device, spool, at, session, waits_for=loop.waits_for),
            bandwidth=bandwidth,
            poked=lambda poke: note_poke(state, poke),
            window=chosen.in_flight,
            status_every_s=chosen.status_every_s,
            redacted_only=settings.privacy.redacts is not None,
        )
        link.start()
        report_due_s = 0.0
        try:
            while not stopped.is_set():
                now = Moment.now()
                try:
                    outcome = loop.step(now)
                except DiskFull:
                    log.warning("the disk is full; nothing is sent until there is room", data=str(data))
                    loop.forget()
                    stopped.wait(_DISK_FULL_S)
                    continue
                if now.monotonic_s >= report_due_s:
                    report_due_s = now.monotonic_s + _REPORT_S
                    _report_uplink(settings, link, loop)
                if isinstance(outcome, Idle):
                    wake.wait(outcome.wait_s)
                    wake.clear()
        finally:
            uploads.stop(_LAST_UPLOADS_S)
            with suppress(DiskFull):
                loop.settle(Moment.now())
            session = link.session
            link.stop(wire.encode(status.message(data, who.device, spool, wire.now(), session, online=False)))
            _report_uplink(settings, link, loop)


def update(settings: AgentSettings, stopped: threading.Event) -> None:
    """Fetch newer models and policies, and certificates before they end."""
    from edgecase_agent.orders import Orders, PolicyFile
    from edgecase_agent.renewal import Renewal
    from edgecase_agent.trust import Trust
    from edgecase_agent.update import NotDue, Refused, Update, trial_in_a_child

    logs.configure("update", settings.log_level)
    who, chosen, data = _enrolled(settings), settings.update, settings.data
    state = data / status.STATE
    state.mkdir(parents=True, exist_ok=True)
    hub = Trust(
        data / "trust", who.hub_url, who.root, max_bundle_bytes=chosen.max_bundle_bytes, cohorts=names_of(settings, who)
    )
    trial = partial(
        trial_in_a_child,
        threads=settings.model.threads,
        providers=settings.model.providers,
        timeout_s=chosen.trial_timeout_s,
    )
    orders = Orders(PolicyFile(data / POLICIES), partial(trial, command="try-policy")) if chosen.policies else None
    loop = Update(Slots(data / "slots"), hub, state, trial, orders, poll_s=chosen.poll_s)
    renewal, said = Renewal(who.identity, who.hub_url), status.UpdateReport(at=wire.now(), pid=os.getpid(), outcome="")
    while not stopped.is_set():
        renewal.step(wire.now(), time.monotonic())
        outcome, before = loop.step(time.monotonic()), said
        if renewal.problem != said.identity_problem:
            said = replace(said, identity_problem=renewal.problem)
        if not isinstance(outcome, NotDue):
            policy = loop.policy
            said = replace(
                said,
                outcome=outcome.name,
                why=outcome.why,
                policy="" if isinstance(policy, NotDue) else f"{policy.name}: {policy.why}",
                policy_refused=policy.why if isinstance(policy, Refused) else "",
            )
        if said is not before:
            status.write(state / status.UPDATE, replace(said, at=wire.now()))
        stopped.wait(1.0)


def _spool(settings: AgentSettings, *, putting: bool = False) -> Spool:
    chosen = settings.spool
    return Spool(
        settings.data / "spool",
        chosen.quota_bytes,
        chosen.min_free_bytes,
        putting=putting,
        keep_per_trigger=chosen.keep_per_trigger,
    )


def _enrolled(settings: AgentSettings) -> Enrolment:
    enrolment = load_enrolment(settings)
    if enrolment is None:
        raise SettingsError("no enrolment is set; make one with `edgecase-agent enroll` and name its folder")
    return enrolment


def _report_uplink(settings: AgentSettings, link: MqttLink, loop: Uplink) -> None:
    said = status.UplinkReport(
        at=wire.now(),
        pid=os.getpid(),
        connected=link.connected,
        session=link.session,
        refused=link.refused,
        in_flight=loop.in_flight,
        messages_dropped=link.dropped,
        waits_for=loop.waits_for,
    )
    status.write(settings.data / status.STATE / status.UPLINK, said)
