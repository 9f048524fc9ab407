"""A short version of every line of `make faults`, and what the fault proxy does to a connection."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from bench.faults.account import Account
from bench.faults.lines import LINES, Line
from bench.faults.proxy import Proxy, Weather, running
from bench.faults.site import a_cloud
from bench.faults.writer import unique_jpeg
from edgecase_cloud import durable
from support.cloud import Cloud
from support.disks import NoDisk, on_disk
from support.wait import until

QUICK = {"late-messages"}
SHORT = 0.02


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with a_cloud(tmp_path_factory.mktemp("faults") / "cloud") as running_cloud:
        yield running_cloud


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "line",
    [pytest.param(line, id=line.name, marks=() if line.name in QUICK else pytest.mark.slow) for line in LINES],
)
def test_whatever_happens_every_promised_frame_is_accounted_for(
    line: Line, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What takes time is judged by `make faults` on a quiet machine; here nothing may be lost, doubled, wrong or uncounted."""
    try:
        rows = list(line.work(request.getfixturevalue("cloud") if line.wants_cloud else None, tmp_path, SHORT, print))
    except NoDisk as reason:
        pytest.skip(str(reason))
    assert [(row.name, row.value, row.unit) for row in rows if row.bar == 0 and not row.ok] == []
    assert line.name.endswith("speed") or any(row.bar == 0 for row in rows)


def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    try:
        with on_disk(tmp_path / "mounted", tmp_path / "disk.img", 48 << 20) as disk:
            synced, not_synced = disk.folder / "synced", disk.folder / "not-synced"
            durable.write(synced, b"here" * 1000)
            not_synced.write_bytes(b"gone" * 1000)
            disk.cut()
            with pytest.raises(OSError, match="Input/output error"):
                synced.write_bytes(b"too late")
            disk.come_back()
            assert synced.read_bytes() == b"here" * 1000
            assert not not_synced.exists() or not_synced.read_bytes() == b""
    except NoDisk as reason:
        pytest.skip(str(reason))


def test_an_account_names_what_is_wrong_and_counts_all_of_it() -> None:
    account = Account(10, lost=("a",), duplicated=("b",), unbalanced=("cam-1 is one short",), given_up=2)
    row = account.row("line")
    assert (row.value, row.ok) == (3, False)
    assert row.unit == "of 10: 1 lost, 1 duplicated, 0 wrong bytes, cam-1 is one short, 2 given up and counted"
    assert Account(10).row("line").ok


def test_pictures_of_the_bench_are_of_the_size_asked_for_decode_and_never_repeat() -> None:
    pictures = [unique_jpeg(size_bytes) for size_bytes in (5_000, 5_000, 200_000)]
    assert [abs(len(picture) - size) <= 4 for picture, size in zip(pictures, (5_000, 5_000, 200_000), strict=True)] == [
        True
    ] * 3
    assert pictures[0] != pictures[1]
    for picture in pictures:
        assert Image.open(io.BytesIO(picture)).convert("RGB").size == (64, 48)


# ---- the proxy -----------------------------------------------------------------------------------------------------


@contextmanager
def echo() -> Iterator[int]:
    """A server that says everything again; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=repeat, args=(connection,), daemon=True).start()

        def repeat(connection: socket.socket) -> None:
            try:
                while said := connection.recv(65536):
                    connection.sendall(said)
            except OSError:
                pass
            finally:
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@contextmanager
def through(weather: Weather) -> Iterator[tuple[Proxy, socket.socket]]:
    with echo() as port:
        proxy = Proxy("127.0.0.1", ("127.0.0.1", port), words=(b"PUT",), weather=weather)
        with running(proxy), socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            yield proxy, client


def received(client: socket.socket, size_bytes: int) -> bytes:
    content = b""
    while len(content) < size_bytes and (more := client.recv(65536)):
        content += more
    return content


def test_in_good_weather_every_byte_arrives_and_words_are_counted() -> None:
    with through(Weather()) as (proxy, client):
        content = b"PUT " + bytes(100_000)
        threading.Thread(target=client.sendall, args=(content,)).start()
        assert received(client, len(content)) == content
        assert (proxy.counts[b"PUT"], proxy.sent_bytes) == (1, len(content))


def test_a_slow_link_takes_its_time_both_ways() -> None:
    with through(Weather(latency_s=0.1, bytes_per_s=100_000)) as (_, client):
        began_s = time.monotonic()
        client.sendall(bytes(10_000))
        assert len(received(client, 10_000)) == 10_000
        assert time.monotonic() - began_s >= 0.3  # twice 0.1 s, and the last piece had to wait for the first


def test_a_reset_reaches_the_client_as_a_reset() -> None:
    with through(Weather(reset_after_bytes=5_000)) as (proxy, client):
        client.sendall(bytes(6_000))
        until(lambda: proxy.resets == 1, what="the reset")
        with pytest.raises(ConnectionResetError):
            received(client, 6_000)


def test_a_half_open_link_swallows_and_says_nothing_and_stays_dead_when_it_gets_better() -> None:
    with through(Weather(half_open=True)) as (proxy, client):
        client.settimeout(0.2)
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.weather = Weather()
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_cut_ends_the_connection() -> None:
    with through(Weather(cut_chance=1.0)) as (proxy, client):
        client.sendall(b"hello")
        assert client.recv(1) == b""
        assert proxy.cuts == 1
