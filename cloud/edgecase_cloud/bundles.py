"""The models that the cloud knows: their files, which of them is the incumbent, and the one way to release one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud import datasets, durable
from edgecase_cloud.catalogue import Bundle, Catalogue, Event
from edgecase_cloud.errors import Unusable
from edgecase_cloud.release import DEFAULT_CHANNEL, Repository
from edgecase_models.bundle import Bundle as Package
from edgecase_models.bundle import BundleError, sha256_of


class ModelError(Unusable):
    """A model that cannot be taken in or released; the message says what to do."""


def package_path(data: Path, digest: str) -> Path:
    """Where the file of a bundle lies."""
    return data / "bundles" / f"{digest}.tar"


def weights_path(data: Path, digest: str) -> Path | None:
    """The weights that a bundle was exported from, for further training; None where they were never given."""
    path = data / "bundles" / f"{digest}.pt"
    return path if path.is_file() else None


def kept_weights(data: Path, sha256: str) -> Path:
    """Where weights that were given by themselves lie, by the digest of their file."""
    return data / "weights" / f"{sha256}.pt"


def keep_weights(data: Path, file: Path) -> str:
    """Take a .pt file in, for trainings to start from; the SHA-256 by which a request names it. `ModelError` where there is none."""
    if not file.is_file():
        raise ModelError(f"{file}: no such weights file")
    sha256 = sha256_of(file)
    if not kept_weights(data, sha256).is_file():
        durable.copy(file, kept_weights(data, sha256))
    return sha256


def run_folder(data: Path, run: str) -> Path:
    """Where a training run keeps its files."""
    return data / "runs" / run


def listed(catalogue: Catalogue) -> list[Bundle]:
    """Every bundle, newest first."""
    with catalogue.session() as session:
        return list(session.scalars(sa.select(Bundle).order_by(Bundle.created_at.desc(), Bundle.digest)))


def find(catalogue: Catalogue, which: str) -> Bundle:
    """A bundle by the beginning of its digest, its version or `release N`; `ModelError` where there is none or more than one."""
    every = listed(catalogue)
    found = [each for each in every if which in (each.version, str(each.release))]
    if not found and len(which) >= 4:
        found = [each for each in every if each.digest.startswith(which)]
    if len(found) == 1:
        return found[0]
    have = (
        ", ".join(f"{each.version} ({each.digest[:12]})" for each in every[:8])
        or "none; run `edgecase-cloud model import`"
    )
    raise ModelError(f"{'several bundles are' if found else 'no bundle is'} {which!r}; there are {have}")


def incumbent(session: Session) -> Bundle | None:
    """The newest released bundle."""
    return session.scalar(sa.select(Bundle).where(Bundle.release.is_not(None)).order_by(Bundle.release.desc()).limit(1))


def next_release_number(session: Session) -> int:
    """One more than any bundle has."""
    return (session.scalar(sa.select(sa.func.max(Bundle.release))) or 0) + 1


def opened(data: Path, digest: str) -> Package:
    """A bundle's file, verified; `ModelError` where it is gone or altered."""
    path = package_path(data, digest)
    try:
        package = Package.open(path)
    except BundleError as error:
        raise ModelError(str(error)) from error
    if package.digest != digest:
        raise ModelError(f"{path} was altered (now {package.digest[:12]}); restore it from a copy")
    return package


def add(
    data: Path,
    catalogue: Catalogue,
    file: Path,
    *,
    weights: Path | None = None,
    gate: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
    parent_digest: str | None = None,
) -> Bundle:
    """Take a bundle's file and weights in, as a candidate; adding it again changes nothing but the gate's report.

    The golden pictures are run here first. Raises `ModelError` where the bundle is not sound.
    """
    try:
        package = Package.open(file)
        package.verify_golden()
    except BundleError as error:
        raise ModelError(str(error)) from error
    target = package_path(data, package.digest)
    if not target.is_file():
        durable.copy(file, target)
    if weights is not None and weights_path(data, package.digest) is None:
        durable.link(weights, target.with_suffix(".pt"))
    datasets.add_classes(catalogue, package.manifest.classes)
    with catalogue.session.begin() as session:
        row = session.get(Bundle, package.digest)
        if row is None:
            row = Bundle(
                digest=package.digest,
                name=package.manifest.name,
                version=package.manifest.version,
                release=None,
                created_at=datetime.now(UTC),
                path=f"bundles/{package.digest}.tar",
                dataset_id=dataset_id,
                parent_digest=parent_digest,
                gate={},
            )
            session.add(row)
        if gate is not None:
            row.gate = dict(gate)
    return row


def register(data: Path, catalogue: Catalogue, file: Path, weights: Path | None = None) -> Bundle:
    """Take a model in from outside. The first one becomes the incumbent: it is signed and published as release 1.

    `weights` (a .pt file) are what trainings go on from. A later import is a candidate: the gate and a release decide about it.
    """
    kept = None if weights is None else kept_weights(data, keep_weights(data, weights))
    if not file.is_file():
        raise ModelError(f"{file}: no such bundle; pack one with `edgecase-model pack`")
    row = add(data, catalogue, file, weights=kept)
    with catalogue.session() as session:
        if incumbent(session) is not None:
            return row
    return publish(data, catalogue, row.digest)


def publish(data: Path, catalogue: Catalogue, digest: str, *, channel: str = DEFAULT_CHANNEL) -> Bundle:
    """Give a bundle the next release number, sign it, publish it and record that, in this order.

    Calling it again for the same bundle changes nothing; after a crash in between it finishes what was begun. Raises `ReleaseError` where
    nothing could be signed, `ModelError` where the bundle's file is not sound or a newer one is released.
    """
    repository = Repository(data)
    repository.ensure()
    with durable.exclusive(data / "releases" / ".publishing"):
        package = opened(data, digest)
        told = repository.channel(channel)
        with catalogue.session() as session:
            row = session.get_one(Bundle, digest)
            newest = incumbent(session)
            number = next_release_number(session)
        if row.release is not None:
            number = row.release
            if newest is not None and newest.digest != digest:
                raise ModelError(
                    f"{row.name} {row.version} was release {row.release}, and release {newest.release} came after it; pack it under a new "
                    "version to release it again"
                )
        elif told is not None:
            number = told.release if told.digest == digest else max(number, told.release + 1)
        repository.publish(package.path, name=row.name, version=row.version, release=number, channel=channel)
        return _record(catalogue, digest, number)


def reconcile(data: Path, catalogue: Catalogue, *, channel: str = DEFAULT_CHANNEL) -> Bundle | None:
    """Record a release that was published just before a crash; None where there is none."""
    repository = Repository(data)
    repository.ensure()
    told = repository.channel(channel)
    if told is None:
        return None
    with catalogue.session() as session:
        row = session.get(Bundle, told.digest)
        if row is None or row.release is not None:
            return None
    return _record(catalogue, told.digest, told.release)


def _record(catalogue: Catalogue, digest: str, number: int) -> Bundle:
    with catalogue.session.begin() as session:
        row = session.get_one(Bundle, digest)
        if row.release is None:
            now = datetime.now(UTC)
            row.release, row.released_at = number, now
            detail = {"release": number, "name": row.name, "version": row.version}
            session.add(Event(at=now, kind="release", subject=digest, detail=detail))
        return row
