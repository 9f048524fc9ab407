"""Whoever is not who he says he is: turned away, and written down."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.faults.site import enrol
from bench.report import Row
from edgecase_cloud import broker
from edgecase_cloud.authority import Authority
from edgecase_cloud.catalogue import Device, Frame
from edgecase_models import wire
from support.cloud import Cloud, CloudDevice, shot
from support.identities import an_identity, context_of
from support.wait import until

HONEST, VICTIM, REVOKED = "identity-honest", "identity-victim", "identity-revoked"
FORGED = 20


def identity(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """No certificate, one of another authority, one that has expired, one that was revoked, and one key with another's certificate;
    then a device that speaks as another: on its topic, and in its name on the own one.
    """
    for device in (HONEST, VICTIM, REVOKED):
        enrol(cloud, device, folder / device)
    parts, own = cloud.services(), {name: folder / name / "enrolment" for name in (HONEST, VICTIM, REVOKED)}
    with parts.catalogue.session() as session:
        enrolment = session.get_one(Device, HONEST).enrolment
    ours = Authority(cloud.data / "keys")
    contexts = {
        "no certificate": ssl.create_default_context(cafile=ours.path),
        "another authority": context_of(
            an_identity(folder / "rogue", Authority(folder / "theirs"), HONEST, enrolment, believes=ours)
        ),
        "expired": context_of(an_identity(folder / "old", ours, HONEST, enrolment, ago=timedelta(days=9))),
        "revoked or replaced": context_of(own[REVOKED]),
    }
    where = (cloud.endpoints.mqtt_host, cloud.endpoints.mqtt_port)
    assert broker.accepts(*where, contexts["revoked or replaced"]), "it is let in until it is revoked"
    assert cloud.run("device", "revoke", REVOKED).returncode == 0
    until(lambda: not broker.accepts(*where, contexts["revoked or replaced"]), what="the revocation")
    let_in = [why for why, context in contexts.items() if broker.accepts(*where, context)]
    let_in += ["another's key"] * _with_the_key_of_another(own[HONEST], own[VICTIM], folder / "mixed")
    yield Row("wrong identities that were let in", len(let_in), f"of {len(contexts) + 1} {let_in}", bar=0, at_most=True)

    thief = CloudDevice(HONEST, own[HONEST], *where)
    frames = [shot(VICTIM) for _ in range(max(2, round(FORGED * scale)))]
    for frame in frames:
        thief.client.publish(wire.up_topic(VICTIM, wire.Offer), wire.encode(frame.offer), qos=1)
        thief.client.publish(wire.up_topic(HONEST, wire.Offer), wire.encode(frame.offer), qos=1)
    honest = shot(HONEST)
    thief.offer(honest)  # all that was said before has been judged when this is answered
    thief.leave()
    with parts.catalogue.session() as session:
        taken = session.scalar(sa.select(sa.func.count()).where(Frame.id.in_([frame.id for frame in frames])))
    yield Row("forged frames that were taken", taken or 0, f"of {2 * len(frames)}", bar=0, at_most=True)

    wanted = {*contexts, "publish"}
    until(lambda: wanted <= _reasons(cloud) and "forged topic" in _kinds(cloud), what=f"{wanted} in {_reasons(cloud)}")
    missing = wanted - _reasons(cloud)
    say(f"in the audit log: {', '.join(sorted(_reasons(cloud)))}")
    yield Row("refusals that are not in the audit log", len(missing), str(sorted(missing)), bar=0, at_most=True)


def _with_the_key_of_another(certificate: Path, key: Path, mixed: Path) -> bool:
    """Whether a certificate can be used with a key that is not its own."""
    shutil.copytree(certificate, mixed)
    shutil.copyfile(key / "key.pem", mixed / "key.pem")
    try:
        context_of(mixed)
    except ssl.SSLError:
        return False
    return True


def _audit(cloud: Cloud) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(cloud.run("audit", "--json").stdout)
    return told


def _reasons(cloud: Cloud) -> set[str]:
    return {event["detail"].get("reason", "") for event in _audit(cloud)}


def _kinds(cloud: Cloud) -> set[str]:
    return {event["kind"] for event in _audit(cloud)}
