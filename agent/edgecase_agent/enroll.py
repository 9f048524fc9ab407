"""How a device comes by its enrolment folder: it asks the hub, and believes only the authority that its token names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgecase_agent import durable, identity
from edgecase_agent.identity import AUTHORITY, CERTIFICATE, DEVICE, KEY, ROOT, IdentityError
from edgecase_models import wire
from edgecase_models.enrolment import ENROLMENTS, Answer, Enrolled, EnrolmentRequest, Token, TokenError, digest_of

_MAX_ANSWER_BYTES: Final = 256_000
_WITHIN_S: Final = 30.0
_DENIALS: Final = (403, 422)


class EnrolmentFailed(ValueError):
    """The device is not enrolled; the message says why and what to do. Nothing is lost: the same command can be given again."""


class Unreachable(Exception):
    """The hub does not answer, or not as a hub does."""


class Denied(Exception):
    """The cloud does not want this; asking again changes nothing before a person has done something."""


def ask(hub_url: str, path: str, request: msgspec.Struct) -> Answer:
    """What the hub answers. Raises `Unreachable` or `Denied`."""
    import urllib3

    url = f"{hub_url.rstrip('/')}{path}"
    try:
        response = urllib3.request(
            "POST",
            url,
            body=msgspec.json.encode(request),
            headers={"content-type": "application/json"},
            timeout=_WITHIN_S,
            retries=False,
            redirect=False,
            preload_content=False,
        )
        content = response.read(_MAX_ANSWER_BYTES)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise Unreachable(f"{hub_url}: {error}") from error
    if response.status != 200:
        said = _problem(content)
        if response.status in _DENIALS and said:
            raise Denied(said)
        raise Unreachable(f"{url} answers {response.status} {said}".rstrip())
    try:
        return msgspec.json.decode(content, type=Answer)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"{url} does not answer as a hub does ({error})") from error


def enroll(hub_url: str, token: str, out: Path, now: Callable[[], datetime] = wire.now) -> str:
    """Make a key, have it certified, and write the folder `out`, whole or not at all; the device's name. Raises `EnrolmentFailed`.

    The key is durable before the token is used. A call that is cut off can be made again: it uses the same key, which the cloud knows.
    """
    try:
        return _enroll(hub_url, Token.parse(token), out, now)
    except Unreachable as error:
        raise EnrolmentFailed(f"the hub cannot be reached ({error}); is it running, and --hub right?") from error
    except (Denied, TokenError, IdentityError) as error:
        raise EnrolmentFailed(str(error)) from error
    except OSError as error:
        raise EnrolmentFailed(f"{error.filename or out} cannot be written: {error.strerror}") from error


def _enroll(hub_url: str, token: Token, out: Path, now: Callable[[], datetime]) -> str:
    if not re.match(r"https?://[^/\s]", hub_url):
        raise EnrolmentFailed(f"--hub {hub_url!r} is no address like http://hub:8700")
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EnrolmentFailed(f"{out} is not an empty folder; remove it, or name another one with --out")
    part = out.with_name(f".{out.name}.{digest_of(token.secret)[:12]}.part")
    part.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.sync_folder(part.parent)
    if not (part / KEY).exists():
        durable.replace(part / KEY, identity.make_key())
    key = identity.load_key((part / KEY).read_bytes())
    request = EnrolmentRequest(secret=token.secret, csr=identity.request_for(key))
    enrolled, authority = opened(ask(hub_url, ENROLMENTS, request), token.authority)
    identity.checked(enrolled.certificate, key, authority, now())
    device = {
        "device": enrolled.device,
        "mqtt_host": enrolled.mqtt_host,
        "mqtt_port": enrolled.mqtt_port,
        "hub_url": hub_url,
    }
    files = {
        DEVICE: "".join(f"{name} = {json.dumps(value)}\n" for name, value in device.items()),
        CERTIFICATE: enrolled.certificate,
        AUTHORITY: enrolled.authority,
        ROOT: enrolled.root,
    }
    for name, content in files.items():
        durable.write_synced(part / name, content.encode())
    durable.sync_folder(part)
    durable.publish(part, out)
    return enrolled.device


def opened(answer: Answer, digest: str) -> tuple[Enrolled, x509.Certificate]:
    """What the cloud says, and its authority, which must be the one of this digest and have signed it. Raises `Denied`."""
    try:
        said = msgspec.json.decode(answer.enrolled, type=Enrolled)
        authority = x509.load_pem_x509_certificate(said.authority.encode())
        key = authority.public_key()
        if identity.fingerprint(authority) != digest or not isinstance(key, ec.EllipticCurvePublicKey):
            raise Denied("the hub is not that of the cloud which this device was told to trust; check the address")
        key.verify(answer.signature, answer.enrolled.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Denied("the hub's answer was changed on its way; check who answers at this address") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise Denied(f"the hub's answer cannot be read: {error}") from error
    return said, authority


def _problem(content: bytes) -> str:
    """The sentence in a problem document (RFC 9457)."""
    try:
        return str(msgspec.json.decode(content, type=dict[str, object]).get("detail", ""))[:500]
    except msgspec.MsgspecError:
        return ""
