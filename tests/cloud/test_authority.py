"""What the authority promises: it is made once, nobody else reads its key, and what it gives out is what it says."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgecase_cloud.authority import Authority, Broken
from edgecase_models import wire
from support.identities import a_key


def test_those_who_ask_at_once_get_one_authority_which_stays(tmp_path: Path) -> None:
    made: list[Authority] = []
    threads = [threading.Thread(target=lambda: made.append(Authority(tmp_path / "keys"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.digest for each in made} == {Authority(tmp_path / "keys").digest}
    assert [path for path in (tmp_path / "keys").iterdir() if path.stat().st_mode & 0o077] == []


def test_one_that_was_cut_off_in_the_making_is_made_anew(tmp_path: Path) -> None:
    first = Authority(tmp_path)
    (tmp_path / "ca.pem").unlink()  # it is written last
    second = Authority(tmp_path)
    assert second.digest != first.digest
    second.for_client(tmp_path / "ingest.pem", "@ingest", wire.now())


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_files_that_are_broken_are_told_with_what_to_do(tmp_path: Path, name: str, content: bytes) -> None:
    Authority(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Broken, match=r"cannot be read .*; restore ca\.pem and ca-key\.pem from a copy, or delete both"):
        Authority(tmp_path)


def test_a_device_gets_what_lets_it_be_a_client_and_nothing_more(tmp_path: Path) -> None:
    authority, key, now = Authority(tmp_path), a_key(), wire.now().replace(microsecond=0)
    made = authority.for_device(key.public_key(), "cam-1", "0a", timedelta(days=2), now)
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (now, now + timedelta(days=2))
    extensions = made.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_our_own_certificates_are_kept_while_they_fit_and_made_anew_where_not(tmp_path: Path) -> None:
    authority, now, path = Authority(tmp_path / "keys"), wire.now(), tmp_path / "broker.pem"
    first = authority.for_server(path, ["127.0.0.1", "localhost"], now).read_bytes()
    assert authority.for_server(path, ["127.0.0.1", "localhost"], now).read_bytes() == first
    names = x509.load_pem_x509_certificate(first).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]
    moved = authority.for_server(path, ["127.0.0.2", "localhost"], now).read_bytes()
    assert moved != first
    path.write_bytes(moved[: len(moved) // 2])
    assert authority.for_server(path, ["127.0.0.2", "localhost"], now).read_bytes() != moved
    other = Authority(tmp_path / "other").for_server(path, ["127.0.0.2", "localhost"], now).read_bytes()
    x509.load_pem_x509_certificate(other).verify_directly_issued_by(Authority(tmp_path / "other").certificate)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_it_signs_is_told_from_what_it_does_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    key = authority.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(authority.sign(b"said"), b"said", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(authority.sign(b"said"), b"Said", ec.ECDSA(hashes.SHA256()))
