"""What the line to the broker promises, over a real broker: it says whether it stands, it comes back, and nothing kills it silently."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from edgecase_agent.identity import Identity
from edgecase_agent.mqtt import LinkDied, Login, MqttLink
from edgecase_cloud.authority import Authority
from edgecase_models import wire
from support.broker import Broker
from support.identities import an_identity
from support.wait import until


def a_login(broker: Broker, folder: Path) -> Login:
    return Login(broker.host, broker.port, Identity(folder))


@contextmanager
def linked(broker: Broker, device: str, folder: Path | None = None) -> Iterator[MqttLink]:
    link = MqttLink(a_login(broker, folder or broker.add_device(device)), device, wake=lambda: None, keepalive_s=5)
    link.start()
    try:
        yield link
    finally:
        link.stop()


def connected(link: MqttLink) -> MqttLink:
    until(lambda: link.connected, what="the link to stand")
    return link


def an_ack() -> wire.Ack:
    return wire.Ack(frame_id=secrets.token_hex(16), sha256="0" * 64)


def test_messages_arrive_in_order_and_one_at_a_time(broker: Broker) -> None:
    cloud = broker.ingest_client()
    with linked(broker, "link-1") as link:
        assert connected(link).receive() is None
        sent = [an_ack() for _ in range(20)]
        for message in sent:
            cloud.send("edgecase/1/down/link-1/ack", wire.encode(message))
        assert [until(link.receive, what="a message") for _ in sent] == sent
    cloud.leave()


def test_what_is_published_while_connected_reaches_the_broker_and_before_that_nothing_is_taken(broker: Broker) -> None:
    cloud = broker.ingest_client("edgecase/1/up/#")
    link = MqttLink(a_login(broker, broker.add_device("link-2")), "link-2", wake=lambda: None)
    assert not link.publish("edgecase/1/up/link-2/offer", b"too early")
    link.start()
    assert connected(link).publish("edgecase/1/up/link-2/offer", b"now")
    until(lambda: b"now" in [message.payload for message in cloud.received])
    assert b"too early" not in [message.payload for message in cloud.received]
    link.stop()
    assert not link.publish("edgecase/1/up/link-2/offer", b"too late")
    cloud.leave()


def test_each_connection_has_a_session_of_its_own_and_the_last_will_names_it(own_broker: Broker) -> None:
    with linked(own_broker, "link-3") as link:
        first = connected(link).session
        own_broker.kill()
        until(lambda: not link.connected, what="the loss to be noticed")
        own_broker.start()
        until(lambda: link.connected, within_s=30, what="the link to come back")
        second = link.session
        assert first != second
        cloud = own_broker.ingest_client("edgecase/1/up/link-3/status")
        link._client.socket().close()  # type: ignore[union-attr]  # the connection breaks without a goodbye
        until(lambda: cloud.received, what="the last will")
        will = wire.decode_up(cloud.received[0].payload)
        assert isinstance(will, wire.Status)
        assert (will.online, will.session) == (False, second)
        cloud.leave()


def test_last_words_replace_the_retained_status(broker: Broker) -> None:
    with linked(broker, "link-4") as link:
        session = connected(link).session
        words = wire.Status(device="link-4", online=False, session=session, at=wire.now(), frames_seen=7)
        link.stop(wire.encode(words))
    cloud = broker.ingest_client("edgecase/1/up/link-4/status")
    until(lambda: cloud.received, what="the retained status")
    assert wire.decode_up(cloud.received[0].payload) == words
    assert cloud.received[0].retained
    cloud.leave()


@pytest.mark.parametrize(
    ("enrolment", "life", "says"),
    [
        (
            "replaced",
            timedelta(days=1),
            "not let in: Not authorized; if this device was revoked or enrolled anew, enrol it again",
        ),
        ("0", timedelta(hours=1), "the certificate ended at .* UTC; enrol it again with the command"),
    ],
)
def test_a_certificate_that_is_not_taken_is_said_with_its_cure_and_nothing_is_published(
    broker: Broker, tmp_path: Path, enrolment: str, life: timedelta, says: str
) -> None:
    broker.add_device("link-5")
    folder = an_identity(tmp_path, broker.authority, "link-5", enrolment, life=life, ago=timedelta(hours=2))
    with linked(broker, "link-5", folder) as link:
        until(lambda: link.refused, what="the refusal")
        assert re.match(says, link.refused), link.refused
        assert not link.connected
        assert not link.publish("edgecase/1/up/link-5/offer", b"x")


def test_a_broker_that_another_authority_vouches_for_is_told_nothing(broker: Broker, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    folder = an_identity(tmp_path / "device", broker.authority, "link-10", believes=other)
    with linked(broker, "link-10", folder) as link:
        until(lambda: link.refused, what="the refusal")
        assert "the broker is not to be believed" in link.refused
        assert "enrol it again" in link.refused


def test_a_connection_shows_the_certificate_as_it_is_then(own_broker: Broker, tmp_path: Path) -> None:
    """A renewal asks nothing of the line: what stands goes on, what begins is with the new certificate, the old one having ended."""
    key = own_broker.add_device("link-11")
    ended = an_identity(tmp_path, own_broker.authority, "link-11", life=timedelta(hours=1), ago=timedelta(hours=2))
    with linked(own_broker, "link-11", ended) as link:
        until(lambda: link.refused, what="the refusal")
        for name in ("key.pem", "certificate.pem"):
            (key / name).replace(ended / name)
        until(lambda: link.connected, within_s=30, what="the link to stand")
        assert link.refused == ""


def test_a_broker_that_is_not_there_is_waited_for(own_broker: Broker) -> None:
    folder = own_broker.add_device("link-6")
    own_broker.kill()
    with linked(own_broker, "link-6", folder) as link:
        assert link.receive() is None
        own_broker.start()
        until(lambda: link.connected, within_s=30, what="the link to stand")


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"null", b"[" * 50_000, b'{"type":"ack"}', b"\xff\xfe", b'{"type":"grant","v":9}']
)
def test_what_cannot_be_read_is_dropped_counted_and_harms_nothing(broker: Broker, payload: bytes) -> None:
    cloud = broker.ingest_client()
    with linked(broker, "link-7") as link:
        connected(link)
        cloud.send("edgecase/1/down/link-7/ack", payload)
        message = an_ack()
        cloud.send("edgecase/1/down/link-7/ack", wire.encode(message))
        assert until(link.receive, what="the next message") == message
        assert link.dropped == 1
    cloud.leave()


def test_what_the_broker_kept_of_strangers_or_of_former_days_is_dropped_when_the_device_comes(broker: Broker) -> None:
    """Retained on its own topics: garbage, and an answer to a frame that it does not know."""
    cloud, old = broker.ingest_client(), an_ack()
    kept = {"edgecase/1/down/link-12/ack": wire.encode(old), "edgecase/1/down/link-12/grant": b"\xff" * 50_000}
    for topic, payload in kept.items():
        cloud.send(topic, payload, retain=True)
    try:
        with linked(broker, "link-12") as link:
            assert until(link.receive, what="the answer of former days") == old
            cloud.send("edgecase/1/down/link-12/ack", wire.encode(new := an_ack()))
            assert until(link.receive, what="the next message") == new
            assert link.dropped == 1
    finally:
        for topic in kept:
            cloud.send(topic, b"", retain=True)
        cloud.leave()


def test_a_fault_in_a_callback_reaches_the_loop_instead_of_ending_the_thread_unseen(broker: Broker) -> None:
    cloud = broker.ingest_client()
    woken = threading.Event()
    link = MqttLink(a_login(broker, broker.add_device("link-8")), "link-8", wake=woken.set)
    link.start()
    connected(link)
    link._inbox.put_nowait = lambda _item: 1 / 0  # type: ignore[assignment, method-assign]
    cloud.send("edgecase/1/down/link-8/ack", wire.encode(an_ack()))

    def raised() -> bool:
        try:
            link.receive()
        except LinkDied:
            return True
        return False

    until(raised, what="the fault")
    assert woken.is_set()
    link.stop()
    cloud.leave()


def test_a_network_thread_that_is_no_more_is_noticed(broker: Broker) -> None:
    with linked(broker, "link-9") as link:
        connected(link)
        link._client.disconnect()
        thread = link._thread
        assert thread is not None
        thread.join(10)
        with pytest.raises(LinkDied):
            link.receive()
