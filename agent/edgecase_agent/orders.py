"""The policy over the air: tried against this device, then stored whole. A kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgecase_agent import durable
from edgecase_agent.slots import ActiveSlot
from edgecase_agent.update import Findings, Followed, Offers, Outcome, Refused, Trial, UpToDate

POLICY: Final = "policy.json"


class PolicyFile:
    """Where the accepted policy lies. One process writes; readers need no lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / POLICY

    def version(self) -> object:
        """Cheap, asked once a second: something that differs as soon as another policy is laid down; None while there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def content(self) -> bytes | None:
        """The policy as it travelled; None where there is none, or none that can be read."""
        try:
            return self._path.read_bytes()
        except OSError:
            return None

    def part(self) -> Path:
        """Where the next policy is written to be tried, on the same disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{POLICY}.part"

    def lay_down(self, part: Path) -> None:
        """Make the synced policy at `part` the accepted one, durably."""
        durable.publish(part, self._path)

    def withdraw(self) -> None:
        """Forget the accepted policy, durably."""
        self._path.unlink(missing_ok=True)
        durable.sync_folder(self._folder)


class Orders:
    """Takes what the hub says is to be looked for; whatever is refused leaves the policy in force as it is."""

    def __init__(self, file: PolicyFile, trial: Trial) -> None:
        self._file = file
        self._trial = trial
        self._refused: tuple[str, str, Refused] | None = None

    def take(self, offers: Offers, active: ActiveSlot) -> Outcome:
        """Follow the hub's policy, or the device's own where it has none. Raises what `offers` raises, and `OSError` of a full disk."""
        content, held = offers.policy(), self._file.content()
        if content is None:
            if held is None:
                return UpToDate("no policy was published")
            self._file.withdraw()
            return Followed("")
        digest = hashlib.sha256(content).hexdigest()
        if content == held:
            return UpToDate(f"follows policy {digest[:12]}")
        if self._refused is not None and self._refused[:2] == (digest, active.digest):
            return self._refused[2]  # it would fail again: neither it nor the model is another one
        return self._try(content, digest, active)

    def _try(self, content: bytes, digest: str, active: ActiveSlot) -> Outcome:
        part = self._file.part()
        durable.write_synced(part, content)
        try:
            findings = self._trial(part, active.path)
            if findings.problem:
                refused = Refused(f"policy {digest[:12]}: {findings.problem}")
                self._refused = None if findings.here else (digest, active.digest, refused)
                return refused
            self._file.lay_down(part)
        finally:
            part.unlink(missing_ok=True)
        return Followed(digest)


def try_policy(
    path: Path, running: Path, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Findings:
    """What a trial in a child runs there: everything that the watch loop would make of the policy, with the model that runs."""
    from edgecase_agent.by_policy import a_judge, must_suit, rules_of
    from edgecase_agent.rules import RulesError
    from edgecase_agent.running import model_of
    from edgecase_agent.selection import Selection
    from edgecase_models.bundle import Bundle, BundleError
    from edgecase_models.detector import Runtime
    from edgecase_models.policy import Policy, PolicyError, check_travels

    runtime = Runtime(threads, providers=tuple(providers))
    try:
        bundle = Bundle.open(running)
        model = model_of(bundle, bundle.detector(runtime))
    except BundleError as error:
        return Findings(problem=f"{error}; restart the agent", here=True)
    try:
        policy = Policy.from_json(path.read_bytes())
        check_travels(policy)
        must_suit(policy, model)
        a_judge(policy, Selection[object](rules_of(policy)), runtime)
    except (PolicyError, RulesError) as error:
        return Findings(problem=str(error))
    return Findings(policy.digest)
