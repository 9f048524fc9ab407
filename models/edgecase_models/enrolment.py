"""How a device comes by its certificate: a token for once, a request, and an answer that only the cloud's authority can have given."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta

from edgecase_models.wire import DeviceId

ENROLMENTS: Final = "/api/v1/enrolments"
RENEWALS: Final = "/api/v1/renewals"
MAX_REQUEST_CHARACTERS: Final = 8_192
_TOKEN: Final = re.compile(r"([0-9a-f]{40})\.([0-9a-f]{64})")

Pem = Annotated[str, Meta(max_length=MAX_REQUEST_CHARACTERS)]
Secret = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]


class TokenError(ValueError):
    """What was given is no token; the message says where one comes from."""


@dataclass(frozen=True)
class Token:
    """Good for one device, once, for a while. `secret` goes to the cloud, which keeps only its digest; `authority`, the SHA-256 of the
    cloud's CA certificate (DER), stays on the device, which by it knows whom it speaks to.
    """

    secret: str = field(repr=False)
    authority: str

    def __str__(self) -> str:
        """As a person hands it on."""
        return f"{self.secret}.{self.authority}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `TokenError`."""
        found = _TOKEN.fullmatch(text.strip())
        if found is None:
            raise TokenError("this is no token, or not all of it; `edgecase-cloud device add NAME` prints one")
        return cls(found[1], found[2])


def digest_of(secret: str) -> str:
    """What the cloud keeps of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


class EnrolmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Sent once with a token, and again, with the same key, where no answer came. `csr`: PKCS #10 in PEM, of a P-256 key."""

    secret: Secret
    csr: Pem


class RenewalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The same key asks for a new certificate before the old one ends. That it signed the request is what lets it in."""

    csr: Pem


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """Who the device is, whom it may trust, and where the broker is.

    `certificate` and `authority`, the CA's, are PEM; `root` is the root metadata of the releases.
    """

    device: DeviceId
    certificate: str
    authority: str
    root: str
    mqtt_host: str
    mqtt_port: Annotated[int, Meta(ge=1, le=65535)]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`enrolled` is an `Enrolled` in JSON, `signature` the CA key's over its UTF-8 (ECDSA with SHA-256, DER).

    The hub's line may be plain: by the token's digest of the CA and by this signature nobody on it can change a word.
    """

    enrolled: str
    signature: bytes
