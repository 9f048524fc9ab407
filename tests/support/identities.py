"""Keys and certificates for tests, made by the real authority, and the device's half of enrolling, written a second time.

The folders are as `edgecase-agent enroll` leaves them, as far as a connection needs them: key.pem, certificate.pem, ca.pem.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgecase_models.enrolment import ENROLMENTS, RENEWALS, Answer, Enrolled, Token

if TYPE_CHECKING:
    import httpx

    from edgecase_cloud.authority import Authority

Key = ec.EllipticCurvePrivateKey


def a_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def a_request(key: ec.EllipticCurvePrivateKey | None = None, name: str = "") -> str:
    """A certificate request; `name` is what it claims."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key or a_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def write_identity(folder: Path, key: Key, certificate: bytes, authority: bytes) -> Path:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    (folder / "certificate.pem").write_bytes(certificate)
    (folder / "ca.pem").write_bytes(authority)
    return folder


def an_identity(
    folder: Path,
    authority: Authority,
    device: str,
    enrolment: str = "0",
    *,
    life: timedelta = timedelta(days=1),
    ago: timedelta = timedelta(0),
    believes: Authority | None = None,
) -> Path:
    """The folder of a device that `authority` gave a certificate, and which believes it, or another one."""
    key = a_key()
    certificate = authority.for_device(key.public_key(), device, enrolment, life, datetime.now(UTC) - ago)
    return write_identity(
        folder, key, certificate.public_bytes(serialization.Encoding.PEM), (believes or authority).pem
    )


def self_made(folder: Path, *, life: timedelta = timedelta(days=1), ago: timedelta = timedelta(0)) -> Path:
    """An identity that fits together and that nobody else believes, for where nobody is asked."""
    key, name, now = a_key(), x509.Name([]), datetime.now(UTC) - ago
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + life)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    return write_identity(folder, key, certificate, certificate)


def complete(
    folder: Path, device: str, *, mqtt_port: int = 9, hub_url: str = "http://127.0.0.1:9", root: bytes = b"{}"
) -> Path:
    """An enrolment folder: an identity with what else a device is told."""
    (folder / "device.toml").write_text(
        f'device = "{device}"\nmqtt_host = "127.0.0.1"\nmqtt_port = {mqtt_port}\nhub_url = "{hub_url}"\n'
    )
    (folder / "root.json").write_bytes(root)
    return folder


def context_of(folder: Path) -> ssl.SSLContext:
    """What a connection with the identity of a folder is made with."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def enrol(hub_url: str, token: Token, folder: Path) -> Enrolled:
    """Enrol over HTTP, as a device does."""
    import httpx

    key = a_key()
    response = httpx.post(f"{hub_url}{ENROLMENTS}", json={"secret": token.secret, "csr": a_request(key)}, timeout=30)
    said = enrolled(response)
    write_identity(folder, key, said.certificate.encode(), said.authority.encode())
    return said


def key_of(folder: Path) -> Key:
    """The key of an identity."""
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def renew(hub_url: str, folder: Path) -> httpx.Response:
    """Ask for another certificate for the key of a folder."""
    import httpx

    return httpx.post(f"{hub_url}{RENEWALS}", json={"csr": a_request(key_of(folder))}, timeout=30)


def enrolled(response: httpx.Response) -> Enrolled:
    """What an answer says."""
    assert response.status_code == 200, response.text
    return msgspec.json.decode(msgspec.json.decode(response.content, type=Answer).enrolled, type=Enrolled)
