"""What the way to the store promises: the bytes as they are, once, and an answer that says what to do next."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecase_agent.bandwidth import Pace
from edgecase_agent.transfer import Answer, HttpStore, Meaning, Transfers, Upload, meaning_of
from support.store import EARLY, RESET, SILENT, Store
from support.wait import until

BODY = bytes(range(256)) * 4000


def an_upload(store: Store, body: bytes = BODY, key: str = "k") -> Upload:
    return Upload("0" * 32, io.BytesIO(body), len(body), store.url(key), {"x-amz-checksum-sha256": "abc="})


@pytest.fixture
def http() -> HttpStore:
    return HttpStore(connect_s=2, answer_s=1)


def test_the_body_arrives_whole_with_its_length_and_the_granted_headers(store: Store, http: HttpStore) -> None:
    answer = http.put(an_upload(store))
    assert (answer.meaning, answer.sent_bytes) == (Meaning.STORED, len(BODY))
    assert store.objects["k"] == BODY
    assert store.headers[0]["content-length"] == str(len(BODY))
    assert store.headers[0]["x-amz-checksum-sha256"] == "abc="
    assert "transfer-encoding" not in store.headers[0]


def test_a_second_upload_of_the_same_key_says_that_it_exists(store: Store, http: HttpStore) -> None:
    http.put(an_upload(store))
    answer = http.put(an_upload(store))
    assert (answer.meaning, answer.detail) == (Meaning.EXISTS, "HTTP 412 PreconditionFailed")


@pytest.mark.parametrize(
    ("script", "meaning"),
    [
        ((400, "BadDigest"), Meaning.REFUSED),
        ((403, "AccessDenied"), Meaning.EXPIRED),
        ((404, "NoSuchBucket"), Meaning.UNAVAILABLE),
        ((500, "InternalError"), Meaning.UNAVAILABLE),
        ((307, ""), Meaning.UNAVAILABLE),
        ((RESET, ""), Meaning.UNAVAILABLE),
        ((SILENT, ""), Meaning.UNAVAILABLE),
    ],
)
def test_each_answer_of_a_store_has_its_meaning(
    store: Store, http: HttpStore, script: tuple[int, str], meaning: Meaning
) -> None:
    store.script.append(script)
    upload = an_upload(store)
    answer = http.put(upload)
    assert answer.meaning is meaning
    assert answer.detail
    assert "\n" not in answer.detail
    assert upload.body.closed
    assert http.put(an_upload(store)).meaning is Meaning.STORED, "the next one is not harmed"


def test_an_answer_that_comes_before_the_body_was_taken_is_heard(store: Store, http: HttpStore) -> None:
    store.script.append((EARLY, ""))
    answer = http.put(an_upload(store, BODY * 8))
    assert answer.meaning in {Meaning.EXPIRED, Meaning.UNAVAILABLE}


def test_a_closed_port_an_unknown_host_and_nonsense_are_unavailable(http: HttpStore) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/k", "http://host.invalid/k", "http://[/k", "gopher://x/y", ""):
        answer = http.put(Upload("0" * 32, io.BytesIO(b"x"), 1, url, {}))
        assert answer.meaning is Meaning.UNAVAILABLE, url
        assert answer.detail


def test_a_header_that_would_break_out_of_its_line_is_never_sent(store: Store, http: HttpStore) -> None:
    upload = Upload("0" * 32, io.BytesIO(b"x"), 1, store.url("k"), {"a": "b\r\nHost: elsewhere"})
    assert http.put(upload).meaning is Meaning.UNAVAILABLE
    assert store.objects == {}


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (200, "", Meaning.STORED),
        (204, "", Meaning.STORED),
        (400, "BadDigest", Meaning.REFUSED),
        (400, "XAmzContentSHA256Mismatch", Meaning.REFUSED),
        (400, "EntityTooLarge", Meaning.REFUSED),
        (400, "RequestTimeout", Meaning.UNAVAILABLE),
        (400, "ExpiredToken", Meaning.EXPIRED),
        (401, "", Meaning.EXPIRED),
        (403, "SignatureDoesNotMatch", Meaning.EXPIRED),
        (408, "", Meaning.UNAVAILABLE),
        (409, "ConditionalRequestConflict", Meaning.UNAVAILABLE),
        (412, "PreconditionFailed", Meaning.EXISTS),
        (413, "", Meaning.REFUSED),
        (429, "", Meaning.UNAVAILABLE),
        (503, "SlowDown", Meaning.UNAVAILABLE),
    ],
)
def test_no_refusal_is_taken_for_success_and_no_passing_trouble_for_a_refusal(
    status: int, code: str, meaning: Meaning
) -> None:
    assert meaning_of(status, code) is meaning


def test_what_is_sent_goes_at_the_pace_that_is_set_and_arrives_whole(store: Store) -> None:
    slept: list[float] = []
    paced = HttpStore(connect_s=2, answer_s=1, pace=Pace(100_000, lambda: 0.0, slept.append))
    answer = paced.put(an_upload(store))
    assert (answer.meaning, answer.sent_bytes, store.objects["k"] == BODY) == (Meaning.STORED, len(BODY), True)
    assert max(slept) == pytest.approx(len(BODY) / 100_000 - 1, rel=0.05), "the clock of this test stands still"


def test_the_stores_name_for_what_it_took_is_told(store: Store, http: HttpStore) -> None:
    assert http.put(an_upload(store)).etag == f'"{hashlib.md5(BODY).hexdigest()}"'


# ---- several at once -----------------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_uploads_run_beside_each_other_and_each_answer_comes_out_once(
    store: Store, http: HttpStore, gate: threading.Event
) -> None:
    woken = threading.Event()

    def put(upload: Upload) -> Answer:
        gate.wait(10)
        return http.put(upload)

    transfers = Transfers(put, at_once=3, wake=woken.set)
    for number in range(3):
        assert transfers.free
        transfers.start(an_upload(store, key=str(number)))
    assert not transfers.free
    assert transfers.finished() is None
    gate.set()
    answers = [until(transfers.finished, what="an answer") for _ in range(3)]
    assert {answer.meaning for answer in answers} == {Meaning.STORED}
    assert woken.is_set()
    assert transfers.free
    assert transfers.finished() is None
    transfers.stop(1)
    assert set(store.objects) == {"0", "1", "2"}


def test_what_breaks_in_an_upload_reaches_the_loop() -> None:
    def put(upload: Upload) -> Answer:
        raise RuntimeError("a fault of ours")

    transfers = Transfers(put, at_once=1, wake=lambda: None)
    transfers.start(Upload("0" * 32, io.BytesIO(b""), 0, "", {}))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        until(transfers.finished)
    assert transfers.free
    transfers.stop(1)


def test_a_file_is_streamed_and_not_read_into_memory(store: Store, http: HttpStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(8_000_000)

    class Counting(io.FileIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size not in {-1, None}
            Counting.largest = max(Counting.largest, size or 0)
            return super().read(size)

    answer = http.put(Upload("0" * 32, Counting(path), 8_000_000, store.url("k"), {}))  # type: ignore[arg-type]
    assert answer.meaning is Meaning.STORED
    assert 0 < Counting.largest <= 1 << 20
    assert len(store.objects["k"]) == 8_000_000
