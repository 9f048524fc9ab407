"""Who this device is to the cloud: a key that never leaves it, and a certificate that lasts for days, in the enrolment folder."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecase_agent import durable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

KEY: Final = "key.pem"
CERTIFICATE: Final = "certificate.pem"
AUTHORITY: Final = "ca.pem"
DEVICE: Final = "device.toml"
ROOT: Final = "root.json"
AGAIN: Final = "enrol it again with the command that `edgecase-cloud device add` prints"
MOST_SKEW: Final = timedelta(days=1)
"""The cloud's own certificates begin so much before they are made: a clock further behind believes none of them."""


class IdentityError(ValueError):
    """The key or a certificate cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate counts."""

    begins: datetime
    ends: datetime

    @property
    def renew_at(self) -> datetime:
        """At two thirds of its life."""
        return self.begins + (self.ends - self.begins) * 2 / 3

    def problem(self, now: datetime) -> str:
        """Why the broker does not take it, or we not the broker's, by this clock; empty where nothing speaks against it."""
        if now < self.begins - MOST_SKEW:
            return f"the clock says {now:%Y-%m-%d %H:%M} UTC, before the certificate began ({self.begins:%Y-%m-%d}); set the clock"
        if now >= self.ends:
            return f"the certificate ended at {self.ends:%Y-%m-%d %H:%M} UTC; {AGAIN}"
        return ""


@dataclass(frozen=True)
class Identity:
    """The files of an enrolment folder that make a device who it is. Every method raises `IdentityError`."""

    folder: Path

    def context(self) -> ssl.SSLContext:
        """Whom the device believes, and who it is."""
        authority = self.folder / AUTHORITY
        try:
            context = ssl.create_default_context(cafile=authority)
        except (OSError, ValueError) as error:
            raise _unusable(authority, error) from error
        self.present(context)
        return context

    def present(self, context: ssl.SSLContext) -> None:
        """Let connections that begin from now on show the certificate as it is now."""
        try:
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        except (OSError, ValueError) as error:
            raise _unusable(self.folder / f"{CERTIFICATE} with {KEY}", error) from error

    def validity(self) -> Validity:
        """Of the certificate as it is now."""
        from cryptography import x509

        path = self.folder / CERTIFICATE
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from error
        return Validity(found.not_valid_before_utc, found.not_valid_after_utc)

    def request(self) -> str:
        """A certificate request for the key (PKCS #10, PEM)."""
        return request_for(self._key())

    def renewed(self, certificate: str, now: datetime) -> Validity:
        """Put another certificate for our key in the place of the present one, whole and durably."""
        validity = checked(certificate, self._key(), self.authority(), now)
        try:
            durable.replace(self.folder / CERTIFICATE, certificate.encode())
        except OSError as error:
            raise IdentityError(
                f"{self.folder / CERTIFICATE} cannot be replaced ({error.strerror}); make room, or let the agent write there"
            ) from error
        return validity

    def authority(self) -> x509.Certificate:
        """Whom the device believes."""
        from cryptography import x509

        path = self.folder / AUTHORITY
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from error

    def _key(self) -> ec.EllipticCurvePrivateKey:
        path = self.folder / KEY
        try:
            return load_key(path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise _unusable(path, error) from error


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of its DER."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def make_key() -> bytes:
    """A new P-256 key, in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A key in PEM; `ValueError` or `TypeError` where it is none of ours."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("it is no P-256 key")
    return key


def request_for(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request. It says no name: the cloud knows whose token, or whose key, this is."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def checked(certificate: str, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, now: datetime) -> Validity:
    """When a new certificate counts. It must be for our key, by this authority, and begin about now."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IdentityError(
            f"the cloud's certificate for this device cannot be used: {error or 'not its own'}"
        ) from error
    if found.public_key() != key.public_key():
        raise IdentityError("the cloud's certificate for this device is for another key")
    validity = Validity(found.not_valid_before_utc, found.not_valid_after_utc)
    if abs(now - validity.begins) > MOST_SKEW or now >= validity.ends:
        raise IdentityError(
            f"the clock here says {now:%Y-%m-%d %H:%M} UTC, the cloud's {validity.begins:%Y-%m-%d %H:%M}; set the clock, and try again"
        )
    return validity


def _unusable(path: Path, error: Exception) -> IdentityError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return IdentityError(f"{path} cannot be used ({said}); {AGAIN}")
