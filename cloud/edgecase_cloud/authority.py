"""The cloud's own certificate authority: it says who the broker is and who a device is, and nobody else is believed."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgecase_cloud import durable, private
from edgecase_cloud.errors import Unusable

CERTIFICATE: Final = "ca.pem"  # files in the folder keys
KEY: Final = "ca-key.pem"
_LIFE: Final = timedelta(days=20 * 365)
_EARLIER: Final = timedelta(days=1)  # a device's clock may be behind
_PEM: Final = serialization.Encoding.PEM


class Broken(Unusable):
    """The authority's files cannot be used; the message says what to do."""


class BadRequest(ValueError):
    """A certificate request that nothing can be made of; the message says why."""


class Authority:
    """Made once, with its key readable by its owner only. Every key is P-256."""

    def __init__(self, folder: Path) -> None:
        """Open the authority in `folder`, or make it there. Raises `Broken`."""
        with durable.exclusive(private.folder(folder).with_suffix(".lock")):
            if not (folder / CERTIFICATE).exists():
                _make(folder)
        try:
            self.pem = (folder / CERTIFICATE).read_bytes()
            self.certificate = x509.load_pem_x509_certificate(self.pem)
            self._key = _private_key((folder / KEY).read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise Broken(
                f"the certificate authority in {folder} cannot be read ({error}); restore {CERTIFICATE} and {KEY} from a "
                "copy, or delete both and enrol every device again"
            ) from error
        self.path = folder / CERTIFICATE
        self.digest = hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def sign(self, content: bytes) -> bytes:
        """That the cloud said this (ECDSA with SHA-256, DER)."""
        return self._key.sign(content, ec.ECDSA(hashes.SHA256()))

    def for_device(
        self, key: ec.EllipticCurvePublicKey, device: str, enrolment: str, life: timedelta, now: datetime
    ) -> x509.Certificate:
        """A client certificate. Its subject names the device and which of its enrolments this is: an earlier one is another user."""
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, device), x509.NameAttribute(NameOID.SERIAL_NUMBER, enrolment)]
        )
        return self._issue(key, subject, ExtendedKeyUsageOID.CLIENT_AUTH, now, now + life)

    def for_client(self, path: Path, name: str, now: datetime) -> Path:
        """Key and certificate of one of our own clients, together in a file for its owner only; made where there is none that is good.

        They last as long as the authority, beside whose key they lie.
        """
        return self._own(path, name, ExtendedKeyUsageOID.CLIENT_AUTH, (), now)

    def for_server(self, path: Path, hosts: Sequence[str], now: datetime) -> Path:
        """The same for a server that is reached by these names and addresses."""
        return self._own(path, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, hosts, now)

    def _own(self, path: Path, name: str, usage: x509.ObjectIdentifier, hosts: Sequence[str], now: datetime) -> Path:
        names = [_general_name(host) for host in hosts]
        if not self._is_good(path, names):
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            certificate = self._issue(
                key.public_key(), subject, usage, now - _EARLIER, self.certificate.not_valid_after_utc, names
            )
            durable.write(path, _pem_of(key) + certificate.public_bytes(_PEM), mode=0o600)
        return path

    def _is_good(self, path: Path, names: Sequence[x509.GeneralName]) -> bool:
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
            found.verify_directly_issued_by(self.certificate)
            said = list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) if names else []
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return said == list(names)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        begins: datetime,
        ends: datetime,
        names: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        issuer = self._key.public_key()
        builder = (
            _builder(key, subject, self.certificate.subject, begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def requested_key(csr: str) -> ec.EllipticCurvePublicKey:
    """The public key that a request (PKCS #10, PEM) proves to hold. Nothing else that it says counts. Raises `BadRequest`."""
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
        genuine = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadRequest(f"the request cannot be read: {str(error)[:200]}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest("the request is for another kind of key than P-256")
    if not genuine:
        raise BadRequest("the request is not signed by its own key")
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """The SHA-256 of a public key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _make(folder: Path) -> None:
    """The key first: where the certificate is, everything is."""
    from edgecase_models import wire

    key, now = ec.generate_private_key(ec.SECP256R1()), wire.now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgecase")])
    certificate = (
        _builder(key.public_key(), name, name, now - _EARLIER, now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, digital_signature=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    durable.write(folder / KEY, _pem_of(key), mode=0o600)
    durable.write(folder / CERTIFICATE, certificate.public_bytes(_PEM), mode=0o600)


def _builder(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("its key is not P-256")  # noqa: TRY004  (what a file holds, not a type of ours)
    return key


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
