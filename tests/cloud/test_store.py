"""What the object store promises, against the real server: grants for exactly one object, nothing for strangers."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from edgecase_cloud.store import NotFound, ObjectInfo, ObjectStore, PutGrant, Refused, Unreachable
from edgecase_models import wire
from support.broker import free_port
from support.s3 import S3Server, anonymous, put, put_parts, running_s3
from support.wait import until

CONTENT = b"\xff\xd8 a picture \xff\xd9" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(s3: S3Server) -> ObjectStore:
    return s3.store


def test_a_granted_put_is_checked_and_seen_with_its_length_and_digest(store: ObjectStore) -> None:
    assert put(store.presign_put("grant/a.jpg", len(CONTENT), SHA256), CONTENT) == (200, "")
    assert store.head("grant/a.jpg") == ObjectInfo("grant/a.jpg", len(CONTENT), SHA256)
    assert store.get("grant/a.jpg") == CONTENT


def test_a_grant_works_once_and_the_first_object_stays(store: ObjectStore) -> None:
    grant = store.presign_put("grant/once.jpg", len(CONTENT), SHA256)
    assert put(grant, CONTENT)[0] == 200
    assert put(grant, CONTENT)[0] == 412
    other = bytes(reversed(CONTENT))
    second = store.presign_put("grant/once.jpg", len(other), hashlib.sha256(other).hexdigest())
    assert put(second, other)[0] == 412
    assert store.get("grant/once.jpg") == CONTENT


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (b"x" * len(CONTENT), {}),
        (CONTENT + b"x", {"Content-Length": str(len(CONTENT) + 1)}),
        (CONTENT, {"If-None-Match": "other"}),
        (CONTENT, {"Content-Type": "text/html"}),
        (CONTENT, {"x-amz-checksum-sha256": "AAAA"}),
    ],
    ids=["other bytes", "longer", "overwrite", "other type", "other checksum"],
)
def test_a_grant_is_for_exactly_these_bytes(store: ObjectStore, content: bytes, changed: dict[str, str]) -> None:
    grant = store.presign_put("grant/exact.jpg", len(CONTENT), SHA256)
    assert put(grant, content, **changed)[0] in {400, 403}
    assert store.head("grant/exact.jpg") is None


def test_a_grant_ends(store: ObjectStore) -> None:
    """The device takes a 403 for the end of its grant, and asks for another (`transfer.meaning_of`)."""
    grant = store.presign_put("grant/late.jpg", len(CONTENT), SHA256, expires_s=1)
    time.sleep(2.1)
    assert put(grant, CONTENT)[0] == 403
    assert store.head("grant/late.jpg") is None


def test_a_grant_is_for_exactly_this_key(store: ObjectStore) -> None:
    grant = store.presign_put("grant/mine.jpg", len(CONTENT), SHA256)
    assert put(grant._replace(url=grant.url.replace("mine", "theirs")), CONTENT)[0] == 403
    assert store.head("grant/theirs.jpg") is None


LARGE = bytes(range(251)) * 70_000  # 17.57 MB: three parts


def test_parts_make_one_object_whose_digest_is_that_of_its_bytes(store: ObjectStore) -> None:
    parts = store.parts("parts/a.jpg", len(LARGE))
    first = put_parts(parts, LARGE, [0])
    again = store.parts("parts/a.jpg", len(LARGE))
    assert (again.upload_id, len(again.urls)) == (parts.upload_id, 3), "a second grant goes on with the first's upload"
    rest = put_parts(again, LARGE, [1, 2])
    assert store.head("parts/a.jpg") is None, "nothing is there before it is put together"
    assert store.put_together(
        "parts/a.jpg", wire.PartsDone(parts.upload_id, parts.part_bytes, first.etags + rest.etags)
    )
    assert store.head("parts/a.jpg") == ObjectInfo("parts/a.jpg", len(LARGE), hashlib.sha256(LARGE).hexdigest())


def test_a_part_takes_exactly_its_length_and_no_other_bytes_than_were_sent(store: ObjectStore) -> None:
    parts = store.parts("parts/exact.jpg", len(LARGE))
    whole = LARGE[: parts.part_bytes]
    for content, digest in ((whole[:-1], whole[:-1]), (whole + b"x", whole + b"x"), (whole, whole[1:])):
        md5 = base64.b64encode(hashlib.md5(digest).digest()).decode()
        status, _ = put(PutGrant(parts.urls[0], {"Content-Type": "", "Content-MD5": md5}), content)
        assert status in {400, 403}


def test_parts_that_are_not_there_make_no_object_and_another_upload_begins(store: ObjectStore) -> None:
    parts = store.parts("parts/lost.jpg", len(LARGE))
    done = put_parts(parts, LARGE, [0])
    for etags in ([*done.etags, '"0"', '"1"'], []):
        assert not store.put_together("parts/lost.jpg", wire.PartsDone(parts.upload_id, parts.part_bytes, etags))
    assert not store.put_together("parts/lost.jpg", done), "it was given up"
    assert store.head("parts/lost.jpg") is None
    assert store.parts("parts/lost.jpg", len(LARGE)).upload_id != parts.upload_id


def test_uploads_that_nobody_goes_on_with_are_dropped_by_their_age_and_prefix(store: ObjectStore) -> None:
    mine, other = store.parts("stale/a/1.jpg", len(LARGE)), store.parts("stale/b/1.jpg", len(LARGE))
    now = datetime.now(UTC)
    assert store.give_up_parts("stale/a/", now - timedelta(days=1)) == []
    assert store.give_up_parts("stale/a/", now + timedelta(minutes=1)) == ["stale/a/1.jpg"]
    assert store.parts("stale/a/1.jpg", len(LARGE)).upload_id != mine.upload_id
    assert store.parts("stale/b/1.jpg", len(LARGE)).upload_id == other.upload_id


def test_a_stranger_gets_nothing_from_any_port_of_the_store(s3: S3Server) -> None:
    s3.store.put("private/a.jpg", CONTENT)
    ports = json.loads((s3.folder / "store" / "ports.json").read_text())
    filer, volume = f"http://127.0.0.1:{ports['filer.port']}", f"http://127.0.0.1:{ports['volume.port']}"
    for base in (f"{s3.url}/edgecase", f"{filer}/buckets/edgecase"):
        assert anonymous(f"{base}/private/a.jpg") in {401, 403}
        assert anonymous(f"{base}/private/b.jpg", "PUT", CONTENT) in {401, 403}
        assert anonymous(f"{base}/private/a.jpg", "DELETE") in {401, 403}
        assert anonymous(f"{base}/") in {401, 403}
    for needle in range(1, 8):
        assert anonymous(f"{volume}/{needle},0100000000") in {401, 404}
    assert s3.store.get("private/a.jpg") == CONTENT


def test_wrong_keys_are_refused_and_not_tried_for_ever(s3: S3Server) -> None:
    thief = ObjectStore(s3.url, "nobody", "nothing")
    with pytest.raises(Refused, match="403"):
        thief.get("private/a.jpg")


def test_what_is_not_there_is_none_or_not_found(store: ObjectStore) -> None:
    assert store.head("nowhere") is None
    with pytest.raises(NotFound, match="nowhere is not in the store"):
        store.get("nowhere")


def test_an_object_whose_digest_the_store_does_not_keep_is_read_to_know_it(store: ObjectStore) -> None:
    store._client.put_object(Bucket=store.bucket, Key="foreign", Body=CONTENT)
    assert store.head("foreign") == ObjectInfo("foreign", len(CONTENT), SHA256)


def test_every_key_is_listed_beyond_one_page(store: ObjectStore) -> None:
    names = [f"listing/{index:02}" for index in range(25)]
    for name in reversed(names):
        store.put(name, b"x")
    assert list(store.keys("listing/", page=10)) == names
    assert set(names) < set(store.keys())


def test_a_second_bucket_of_the_same_name_is_no_error(store: ObjectStore) -> None:
    store.ensure_bucket()
    store.ensure_bucket()


def test_a_store_that_is_not_there_is_unreachable() -> None:
    away = ObjectStore(f"http://127.0.0.1:{free_port()}", "a", "b", attempts=1)
    for call in (lambda: away.head("k"), lambda: away.get("k"), lambda: away.put("k", b""), lambda: list(away.keys())):
        with pytest.raises(Unreachable, match="did not answer"):
            call()


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_store_that_is_silent_is_unreachable_after_its_time(silent_server: int) -> None:
    silent = ObjectStore(f"http://127.0.0.1:{silent_server}", "a", "b", attempts=1, timeout_s=0.2)
    with pytest.raises(Unreachable):
        silent.head("k")


@pytest.mark.parametrize("key", ["frames/cam-1/2026-03-04/0a.jpg", "a b+c/%20/ü~/=&?.jpg"])
def test_an_address_is_signed_as_the_client_signs_it(key: str) -> None:
    """The client goes a longer way to the same address."""
    store = ObjectStore("http://127.0.0.1:1/", "a", "b")
    parameters = {
        "Bucket": store.bucket,
        "Key": key,
        "ContentLength": 7,
        "ContentType": "image/jpeg",
        "ChecksumSHA256": base64.b64encode(bytes.fromhex(SHA256)).decode(),
        "IfNoneMatch": "*",
    }

    def both() -> tuple[str, str]:
        theirs = store._client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=60)
        return store.presign_put(key, 7, SHA256, expires_s=60).url, theirs

    def second(url: str) -> list[str]:
        return parse_qs(urlsplit(url).query)["X-Amz-Date"]

    ours, theirs = until(lambda: next((pair for pair in [both()] if second(pair[0]) == second(pair[1])), None))
    assert ours == theirs


def test_a_grant_can_be_made_while_the_store_is_away() -> None:
    assert ObjectStore("http://127.0.0.1:1", "a", "b").presign_put("k", 1, SHA256).headers["If-None-Match"] == "*"


def test_objects_survive_a_kill_of_the_store_and_other_inner_ports(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        for index in range(20):
            server.store.put(f"kill/{index}", CONTENT)
        assert server.store.head("kill/0") is not None
        server.kill()
        (server.folder / "store" / "ports.json").unlink()
        server.start()
        assert server.store.head("kill/0") == ObjectInfo("kill/0", len(CONTENT), SHA256), "on a connection that is dead"
        server.store.put("kill/20", CONTENT)
        assert [server.store.get(key) for key in server.store.keys("kill/")] == [CONTENT] * 21


def test_the_keys_of_the_store_are_for_the_owner_only(s3: S3Server) -> None:
    folder = s3.folder
    for path in (
        folder / "store" / "s3.json",
        folder / "store" / "security.toml",
        folder / "keys" / "store-secret-key",
    ):
        assert path.stat().st_mode & 0o077 == 0
