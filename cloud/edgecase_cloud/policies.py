"""What devices are told to look for: policies, signed for a cohort, and which device follows which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from edgecase_cloud import durable
from edgecase_cloud.catalogue import Catalogue, Device, Event
from edgecase_cloud.errors import Unusable
from edgecase_cloud.release import DEFAULT_CHANNEL, Repository
from edgecase_models.policy import Policy, PolicyError, check_travels, read_policy

CHANGED: Final = "policy"
"""The kind of the events that devices are poked for."""


class PolicyRefused(Unusable):
    """A policy that cannot be published, or is not there; devices go on as they are, and the message says what to do."""


@dataclass(frozen=True)
class Follower:
    """A device and the policy that it says it follows. `cohort`: for whom that was published, empty for its own or one that is no more."""

    device: str
    digest: str
    cohort: str
    problem: str


def publish(data: Path, catalogue: Catalogue, file: Path, *, cohort: str = DEFAULT_CHANNEL) -> Policy:
    """Check a policy as a device would, sign it for a cohort, record that, and have the devices poked.

    Calling it again changes nothing; after a crash in between it finishes what was begun. Raises `PolicyRefused` for a policy that no
    device could follow and `ReleaseError` where nothing could be signed.
    """
    try:
        policy = Policy.from_json(read_policy(file).to_json())  # read as the devices will read it
        check_travels(policy)
    except PolicyError as error:
        raise PolicyRefused(str(error)) from error
    repository = Repository(data)
    repository.ensure()
    with durable.exclusive(data / "releases" / ".publishing"):
        repository.publish_policy(policy.to_json(), cohort=cohort)
        _record(catalogue, cohort, {"digest": policy.digest, "name": policy.name})
    return policy


def withdraw(data: Path, catalogue: Catalogue, *, cohort: str = DEFAULT_CHANNEL) -> None:
    """Have the devices of a cohort follow what `default` follows, or, without that, their own settings. Raises `PolicyRefused`."""
    repository = Repository(data)
    repository.ensure()
    with durable.exclusive(data / "releases" / ".publishing"):
        withdrawn = repository.withdraw_policy(cohort=cohort)
        recorded = _record(catalogue, cohort, {"digest": "", "name": ""})
    if not withdrawn and not recorded:
        have = ", ".join(repository.policies()) or "none"
        raise PolicyRefused(f"no policy is published for cohort {cohort!r}; there are policies for: {have}")


def published(data: Path) -> dict[str, Policy]:
    """The policy of each cohort that has one."""
    return {cohort: Policy.from_json(content) for cohort, content in Repository(data).policies().items()}


def followers(catalogue: Catalogue, policies: dict[str, Policy]) -> Sequence[Follower]:
    """Every device, by id, with what it last said that it follows."""
    cohorts = {policy.digest: cohort for cohort, policy in policies.items()}
    with catalogue.session() as session:
        rows = session.scalars(sa.select(Device).order_by(Device.id)).all()
    return [
        Follower(row.id, digest, cohorts.get(digest, ""), str(row.status.get("policy_problem", "")))
        for row in rows
        for digest in (str(row.status.get("policy_digest", "")),)
    ]


def _record(catalogue: Catalogue, cohort: str, detail: dict[str, str]) -> bool:
    """Note what a cohort is told from now on; False where the last note says so already."""
    with catalogue.writing.begin() as session:
        told = sa.select(Event).where(Event.kind == CHANGED, Event.subject == cohort).order_by(Event.id.desc()).limit(1)
        last = session.scalar(told)
        if detail == (last.detail if last is not None else {"digest": "", "name": ""}):
            return False
        session.add(Event(at=datetime.now(UTC), kind=CHANGED, subject=cohort, detail=detail))
        return True
