"""A newer model from the hub: fetched into the idle slot, tried in a process of its own, and only then the one that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from edgecase_agent import durable
from edgecase_agent.slots import ActiveSlot, Slots
from edgecase_agent.trust import Channel, Found, Unreachable, Untrusted

POKE: Final = "poke.json"
QUARANTINE: Final = "quarantine.json"
_MAX_UNREACHABLE_S: Final = 300.0

log = structlog.get_logger()


@dataclass(frozen=True)
class NotDue:
    """Nothing to do before `wait_s` have passed, unless a poke arrives."""

    wait_s: float


@dataclass(frozen=True)
class UpToDate:
    """The hub was asked, and nothing is to be done."""

    why: str
    name = "up to date"


@dataclass(frozen=True)
class Offline:
    """The hub could not be asked, or there is no room; what runs is not affected."""

    why: str
    name = "offline"


@dataclass(frozen=True)
class Refused:
    """Something was offered and must not run here; what runs is not affected."""

    why: str
    name = "refused"


@dataclass(frozen=True)
class Switched:
    """Another model is laid down to run."""

    digest: str
    release: int
    name = "switched"

    @property
    def why(self) -> str:
        """To what."""
        return f"to release {self.release}"


Outcome = NotDue | UpToDate | Offline | Refused | Switched


class Hub(Protocol):
    """Where signed models come from: `trust.Trust` in production."""

    def look(self) -> Found | None: ...

    def fetch(self, found: Found, part: Path) -> None: ...


class Findings(msgspec.Struct, frozen=True):
    """What the trial of a bundle found: its digest, and why it must not run. `here`: the fault may be this device's own."""

    digest: str = ""
    problem: str = ""
    here: bool = False


Trial = Callable[[Path, Path], Findings]
"""Takes the bundle to try and the one that runs."""


class Poked(msgspec.Struct, frozen=True):
    """The content of `poke.json`: the cloud said that there is a release."""

    release: int


class Quarantined(msgspec.Struct, frozen=True):
    """A digest that failed here, with the release it came as; a higher one may bring it again."""

    release: int
    why: str


class Update:
    """`step` does what is due now. Every failure leaves the model that runs as it is; every step can be done again after a kill."""

    def __init__(self, slots: Slots, hub: Hub, state: Path, trial: Trial, *, poll_s: float = 60.0) -> None:
        self._slots = slots
        self._hub = hub
        self._state = state
        self._trial = trial
        self._poll_s = poll_s
        self._due_s = 0.0
        self._failures = 0
        self._poke_seen = 0
        self.last: Outcome = NotDue(0)

    def step(self, now_s: float) -> Outcome:
        """Ask the hub if it is time or if the cloud said so, and take what it offers."""
        poke = self._poke()
        if now_s < self._due_s and poke <= self._poke_seen:
            return NotDue(self._due_s - now_s)
        outcome = self._ask()
        self._poke_seen = poke
        self._failures = self._failures + 1 if isinstance(outcome, Offline) else 0
        retry_s = min(self._poll_s, _MAX_UNREACHABLE_S, 2.0**self._failures) if self._failures else self._poll_s
        self._due_s = now_s + retry_s
        if outcome != self.last:
            self._log(outcome)
        self.last = outcome
        return outcome

    def _ask(self) -> Outcome:
        active = self._slots.active()
        if active is None:
            return UpToDate("there is no first model yet")
        try:
            found = self._hub.look()
            if found is None:
                return UpToDate("nothing was released yet")
            return self._judged(found.channel, active) or self._take(found, active)
        except Unreachable as error:
            return Offline(str(error))
        except Untrusted as error:
            return Refused(str(error))
        except OSError as error:
            if not durable.is_full(error):
                raise
            return Offline("the disk is full; free some space")

    def _judged(self, channel: Channel, active: ActiveSlot) -> Outcome | None:
        """Why the channel needs nothing done; None where its model is to be taken."""
        if channel.digest == active.digest:
            self._slots.raise_release(channel.release)
            return UpToDate(f"runs release {channel.release}")
        if channel.release <= active.release:
            return UpToDate(f"release {channel.release} is not above {active.release}")
        known = _quarantine(self._state).get(channel.digest)
        if known is not None and channel.release <= known.release:
            return Refused(f"release {channel.release} failed here before: {known.why}")
        return None

    def _take(self, found: Found, active: ActiveSlot) -> Outcome:
        if not self._slots.intact(active):
            return Refused("the model that runs is damaged on this disk; restart the agent")
        channel, part = found.channel, self._slots.part()
        try:
            self._hub.fetch(found, part)
            findings = self._trial(part, active.path)
            if findings.problem:
                if not findings.here:
                    set_apart(self._state, channel.digest, channel.release, findings.problem)
                return Refused(f"release {channel.release}: {findings.problem}")
            if findings.digest != channel.digest:
                return Refused(f"release {channel.release}: the bundle changed while it was tried; check the disk")
            self._slots.switch(part, channel.digest, channel.release)
        finally:
            part.unlink(missing_ok=True)
        return Switched(channel.digest, channel.release)

    def _poke(self) -> int:
        try:
            return msgspec.json.decode((self._state / POKE).read_bytes(), type=Poked).release
        except (OSError, msgspec.MsgspecError):
            return 0

    def _log(self, outcome: Outcome) -> None:
        match outcome:
            case Switched():
                log.info("model laid down", digest=outcome.digest, release=outcome.release)
            case Refused():
                log.error("update refused", reason=outcome.why)
            case Offline():
                log.warning("no update now", reason=outcome.why)
            case UpToDate():
                log.info("up to date", reason=outcome.why)


def set_apart(state: Path, digest: str, release: int, why: str) -> None:
    """Quarantine a model that failed here: it is not taken again before it comes as a higher release."""
    known = _quarantine(state) | {digest: Quarantined(release, why)}
    durable.replace(state / QUARANTINE, msgspec.json.encode(known))


def _quarantine(state: Path) -> dict[str, Quarantined]:
    try:
        return msgspec.json.decode((state / QUARANTINE).read_bytes(), type=dict[str, Quarantined])
    except (OSError, msgspec.MsgspecError):
        return {}


def note_poke(state: Path, release: int) -> None:
    """Tell the update loop, which is another process, that the cloud has a release."""
    state.mkdir(parents=True, exist_ok=True)
    durable.replace_lazily(state / POKE, msgspec.json.encode(Poked(release)))


def trial_in_a_child(
    part: Path,
    running: Path,
    *,
    threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    timeout_s: float = 120.0,
) -> Findings:
    """Open the bundle and run its golden pictures in a process of its own: a model that crashes there harms nobody."""
    options = ["--parent", str(os.getpid()), "--threads", str(threads)]
    options += [word for provider in providers for word in ("--provider", provider)]
    command = [sys.executable, "-m", "edgecase_agent", "try-bundle", *options, str(part), str(running)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Findings(problem=f"its trial did not end within {timeout_s:.0f} s")
    try:
        return msgspec.json.decode(done.stdout, type=Findings)
    except msgspec.MsgspecError:
        ending = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return Findings(problem=f"its trial ended with {ending}")


def try_bundle(
    path: Path, running: Path, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Findings:
    """What `trial_in_a_child` runs there: class indices must mean what they mean now, and the golden pictures must come out."""
    from edgecase_models.bundle import Bundle, BundleError
    from edgecase_models.detector import Runtime

    try:
        classes = Bundle.open(running).manifest.classes
    except BundleError as error:
        return Findings(problem=f"{error}; restart the agent", here=True)
    try:
        bundle = Bundle.open(path)
        if bundle.manifest.classes[: len(classes)] != classes:
            return Findings(problem=f"wrong classes: they must begin with {', '.join(classes)}, in this order")
        bundle.verify_golden(Runtime(threads, providers=tuple(providers)))
    except BundleError as error:
        return Findings(problem=str(error).replace(f"bundle {path}: ", ""))
    return Findings(bundle.digest)
