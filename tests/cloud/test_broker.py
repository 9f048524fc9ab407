"""What the embedded broker promises: who may say and hear what, and what survives a kill."""

from __future__ import annotations

import json
import re
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from edgecase_cloud.authority import Authority
from edgecase_cloud.broker import INGEST, accepts
from support.broker import Broker, free_port, running_broker
from support.identities import an_identity, context_of
from support.wait import until


def test_a_message_forged_in_the_name_of_another_device_reaches_nobody(broker: Broker) -> None:
    ingest = broker.ingest_client("edgecase/1/up/#")
    victim = broker.device_client("forge-victim")
    thief = broker.device_client("forge-thief")
    try:
        thief.send("edgecase/1/up/forge-victim/offer", b"forged")
        thief.send("edgecase/1/down/forge-victim/poke", b"forged")
        thief.send("$MQTT/sub/x", b"forged")
        thief.send("edgecase/1/up/forge-thief/offer", b"genuine")
        until(lambda: "edgecase/1/up/forge-thief/offer" in ingest.topics())
        assert b"forged" not in {message.payload for message in [*ingest.received, *victim.received]}
    finally:
        for client in (ingest, victim, thief):
            client.leave()


@pytest.mark.parametrize(
    "topic", ["edgecase/1/down/other/#", "edgecase/1/down/+/ack", "edgecase/1/up/#", "#", "$MQTT/sub/#", "$SYS/#"]
)
def test_a_device_hears_no_topic_but_its_own(broker: Broker, topic: str) -> None:
    device = broker.device_client("listener")
    try:
        assert not device.subscribed(topic)
        assert device.subscribed("edgecase/1/down/listener/ack")
    finally:
        device.leave()


def test_only_a_certificate_of_ours_whose_subject_is_known_is_let_in(broker: Broker, tmp_path: Path) -> None:
    known = broker.add_device("locked")
    assert broker.accepts(known)
    rogue, ours = Authority(tmp_path / "rogue"), broker.authority
    day, week = timedelta(days=1), timedelta(days=7)
    refused = {
        "of another authority": an_identity(tmp_path / "1", rogue, "locked", believes=ours),
        "ended": an_identity(tmp_path / "2", ours, "locked", life=day, ago=week),
        "of another enrolment": an_identity(tmp_path / "3", ours, "locked", "1"),
        "of nobody": an_identity(tmp_path / "4", ours, "stranger"),
        "of one called like ingest": an_identity(tmp_path / "5", ours, INGEST),
    }
    assert [name for name, folder in refused.items() if broker.accepts(folder)] == []
    assert not accepts(broker.host, broker.port, ssl.create_default_context(cafile=known / "ca.pem")), "none at all"


def test_a_client_that_another_authority_vouches_the_broker_to_says_nothing_to_it(
    broker: Broker, tmp_path: Path
) -> None:
    folder = an_identity(tmp_path / "6", broker.authority, "locked", believes=Authority(tmp_path / "other"))
    with socket.create_connection((broker.host, broker.port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
        context_of(folder).wrap_socket(plain, server_hostname=broker.host)


def test_no_user_comes_in_by_the_protocol_of_nats_without_a_certificate(broker: Broker) -> None:
    """That port cannot be closed. Whoever knows the names of the users has nothing of it."""
    broker.add_device("by-nats")
    ports = re.findall(r"Listening for client connections on \S+:(\d+)", broker.log.read_text())
    for user in ("CN=@ingest", "SERIALNUMBER=0,CN=by-nats", ""):
        with socket.create_connection((broker.host, int(ports[-1])), timeout=5) as connection:
            assert connection.recv(4096).startswith(b"INFO")
            login = json.dumps({"user": user, "pass": ""} if user else {})
            connection.sendall(f"CONNECT {login}\r\nPING\r\n".encode())
            assert b"Authorization Violation" in connection.recv(4096)


def test_a_device_that_takes_the_session_of_another_gets_none_of_its_messages(broker: Broker) -> None:
    ingest = broker.ingest_client()
    owner = broker.device_client("session-owner", client_id="session-owner", clean_session=False)
    owner.leave()
    ingest.send("edgecase/1/down/session-owner/ack", b"for the owner")
    thief = broker.client(context_of(broker.add_device("session-thief")), "session-owner", clean_session=False)
    ingest.send("edgecase/1/down/session-thief/ack", b"nothing")
    thief.leave()
    again = broker.device_client("session-owner", client_id="session-owner", clean_session=False)
    try:
        until(lambda: b"for the owner" in {message.payload for message in again.received})
        assert thief.received == []
    finally:
        again.leave()
        ingest.leave()


def test_a_device_is_added_and_removed_while_the_others_stay_connected(tmp_path: Path) -> None:
    with running_broker(tmp_path, devices=("first",)) as broker:
        first = broker.device_client("first")
        dropped: list[object] = []
        first.on_disconnect = lambda *arguments: dropped.append(arguments)
        second = broker.device_client("second")
        broker.remove_device("second")
        until(lambda: not second.is_connected(), what="the removed device to be cut off")
        first.send("edgecase/1/up/first/offer", b"still here")
        assert not dropped
        first.leave()
        second.leave()


def test_queued_and_retained_messages_survive_a_kill_of_the_broker(tmp_path: Path) -> None:
    with running_broker(tmp_path, devices=("cam",)) as broker:
        cam = broker.device_client("cam", client_id="cam", clean_session=False)
        cam.leave()
        ingest = broker.ingest_client()
        for index in range(20):
            ingest.send("edgecase/1/down/cam/ack", b"%d" % index)
        ingest.send("edgecase/1/down/cam/poke", b"retained", retain=True)
        ingest.leave()
        broker.kill()
        broker.start()
        cam = broker.device_client("cam", client_id="cam", clean_session=False)
        until(lambda: len({message.payload for message in cam.received}) == 21)
        cam.leave()


def test_a_broker_that_is_not_there_accepts_nobody() -> None:
    assert not accepts("127.0.0.1", free_port(), ssl.create_default_context())
