"""What is newer at the hub: a model is fetched into the idle slot, tried in a process of its own, and only then the one that runs."""

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
from edgecase_agent.trust import Channel, Unreachable, Untrusted
from edgecase_models import wire

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


@dataclass(frozen=True)
class Followed:
    """Another policy is laid down to be followed: one from the hub, or, with an empty `digest`, the device's own again."""

    digest: str
    name = "followed"

    @property
    def why(self) -> str:
        """Which."""
        return f"policy {self.digest[:12]}" if self.digest else "the device's own policy"


Outcome = NotDue | UpToDate | Offline | Refused | Switched | Followed


class Offers(Protocol):
    """What a hub has signed: `trust.Signed` in production."""

    def channel(self) -> Channel | None: ...

    def policy(self) -> bytes | None: ...

    def fetch(self, channel: Channel, part: Path) -> None: ...


class Hub(Protocol):
    """Where signed models and policies come from: `trust.Trust` in production."""

    def look(self) -> Offers: ...


class Follower(Protocol):
    """Who takes what else the hub offers, beside the model that runs: `orders.Orders` in production."""

    def take(self, offers: Offers, active: ActiveSlot) -> Outcome: ...


class Findings(msgspec.Struct, frozen=True):
    """What a trial found: the digest of what was tried, and why it must not run. `here`: the fault may be this device's own."""

    digest: str = ""
    problem: str = ""
    here: bool = False


Trial = Callable[[Path, Path], Findings]
"""Takes the bundle or the policy to try, and the bundle that runs."""


class Poked(msgspec.Struct, frozen=True):
    """The content of `poke.json`: which release and which policy the cloud said that there is."""

    release: int = 0
    policy: int = 0


class Quarantined(msgspec.Struct, frozen=True):
    """A digest that failed here, with the release it came as; a higher one may bring it again."""

    release: int
    why: str


class Update:
    """`step` does what is due now. Every failure leaves the model that runs as it is; every step can be done again after a kill."""

    def __init__(
        self,
        slots: Slots,
        hub: Hub,
        state: Path,
        trial: Trial,
        policies: Follower | None = None,
        *,
        poll_s: float = 60.0,
    ) -> None:
        """`policies`: who takes policies; None where none are taken. `policy` is what that last came to."""
        self._slots = slots
        self._hub = hub
        self._state = state
        self._trial = trial
        self._poll_s = poll_s
        self._due_s = 0.0
        self._failures = 0
        self._poke_seen = Poked()
        self._policies = policies
        self.policy: Outcome = NotDue(0)
        self.last: Outcome = NotDue(0)

    def step(self, now_s: float) -> Outcome:
        """Ask the hub if it is time or if the cloud said so, and take what it offers."""
        poke = self._poke()
        if now_s < self._due_s and poke == self._poke_seen:
            return NotDue(self._due_s - now_s)
        outcome = self._ask()
        self._poke_seen = poke
        away = isinstance(outcome, Offline) or isinstance(self.policy, Offline)
        self._failures = self._failures + 1 if away else 0
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
        return answered(lambda: self._follow(self._hub.look(), active))

    def _follow(self, offers: Offers, active: ActiveSlot) -> Outcome:
        """The model first, since a policy is tried against the one that is to run; neither waits for the other to be sound."""
        model = answered(lambda: self._model(offers, active))
        follower, active = self._policies, self._slots.active() or active
        if follower is not None:
            policy = answered(lambda: follower.take(offers, active))
            if policy != self.policy:
                self._log(policy)
            self.policy = policy
        return model

    def _model(self, offers: Offers, active: ActiveSlot) -> Outcome:
        channel = offers.channel()
        if channel is None:
            return UpToDate("nothing was released yet")
        return self._judged(channel, active) or self._take(offers, channel, active)

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

    def _take(self, offers: Offers, channel: Channel, active: ActiveSlot) -> Outcome:
        if not self._slots.intact(active):
            return Refused("the model that runs is damaged on this disk; restart the agent")
        part = self._slots.part()
        try:
            offers.fetch(channel, part)
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

    def _poke(self) -> Poked:
        try:
            return msgspec.json.decode((self._state / POKE).read_bytes(), type=Poked)
        except (OSError, msgspec.MsgspecError):
            return Poked()

    def _log(self, outcome: Outcome) -> None:
        match outcome:
            case Switched():
                log.info("model laid down", digest=outcome.digest, release=outcome.release)
            case Followed():
                log.info("policy laid down", digest=outcome.digest)
            case Refused():
                log.error("update refused", reason=outcome.why)
            case Offline():
                log.warning("no update now", reason=outcome.why)
            case UpToDate():
                log.info("up to date", reason=outcome.why)


def answered(ask: Callable[[], Outcome]) -> Outcome:
    """What asking the hub came to, failures of the line, of the trust and of a full disk included."""
    try:
        return ask()
    except Unreachable as error:
        return Offline(str(error))
    except Untrusted as error:
        return Refused(str(error))
    except OSError as error:
        if not durable.is_full(error):
            raise
        return Offline("the disk is full; free some space")


def set_apart(state: Path, digest: str, release: int, why: str) -> None:
    """Quarantine a model that failed here: it is not taken again before it comes as a higher release."""
    known = _quarantine(state) | {digest: Quarantined(release, why)}
    durable.replace(state / QUARANTINE, msgspec.json.encode(known))


def _quarantine(state: Path) -> dict[str, Quarantined]:
    try:
        return msgspec.json.decode((state / QUARANTINE).read_bytes(), type=dict[str, Quarantined])
    except (OSError, msgspec.MsgspecError):
        return {}


def note_poke(state: Path, poke: wire.Poke) -> None:
    """Tell the update loop, which is another process, that the cloud has a release or a policy."""
    state.mkdir(parents=True, exist_ok=True)
    noted = Poked(poke.release, 0 if poke.policy is msgspec.UNSET else poke.policy)
    durable.replace_lazily(state / POKE, msgspec.json.encode(noted))


def trial_in_a_child(
    part: Path,
    running: Path,
    *,
    command: str = "try-bundle",
    threads: int = 1,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    timeout_s: float = 120.0,
) -> Findings:
    """Try a bundle, or by `try-policy` a policy, in a process of its own: what crashes there harms nobody."""
    options = ["--parent", str(os.getpid()), "--threads", str(threads)]
    options += [word for provider in providers for word in ("--provider", provider)]
    words = [sys.executable, "-m", "edgecase_agent", command, *options, str(part), str(running)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
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
