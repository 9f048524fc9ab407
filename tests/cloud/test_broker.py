"""What the embedded broker promises: who may say and hear what, and what survives a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecase_cloud.broker import accepts
from support.broker import Broker, free_port, running_broker
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


def test_a_wrong_password_and_no_password_are_refused(broker: Broker) -> None:
    broker.add_device("locked")
    for user, password in (("locked", "wrong"), ("nobody", "x"), ("", "")):
        assert not accepts(broker.host, broker.port, user, password)


def test_a_device_that_takes_the_session_of_another_gets_none_of_its_messages(broker: Broker) -> None:
    ingest = broker.ingest_client()
    owner = broker.device_client("session-owner", client_id="session-owner", clean_session=False)
    owner.leave()
    ingest.send("edgecase/1/down/session-owner/ack", b"for the owner")
    thief = broker.client("session-thief", broker.add_device("session-thief"), "session-owner", clean_session=False)
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
    assert not accepts("127.0.0.1", free_port(), "anyone", "x" * 200)
