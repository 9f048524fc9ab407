"""What the uplink may expect of its line: the same of the quiet one that its tests use and of the real one over a broker."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecase_agent.identity import Identity
from edgecase_agent.mqtt import Login, MqttLink
from edgecase_agent.uplink import Link
from edgecase_models import wire
from support.line import QuietLine
from support.wait import until

DEVICE = "contract-1"
TOPIC = f"edgecase/1/up/{DEVICE}/offer"


@dataclass
class Line:
    """A line, what the cloud heard on it, a way to say something to it, and to cut it and mend it."""

    link: Link
    heard: Callable[[], list[bytes]]
    say: Callable[[wire.Down], object]
    cut: Callable[[], object]
    mend: Callable[[], object]


@pytest.fixture(params=["quiet", "real"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    if request.param == "quiet":
        quiet = QuietLine(connected=True)

        def mend() -> None:
            quiet.connected, quiet.session = True, secrets.token_hex(4)

        yield Line(
            quiet,
            lambda: [payload for _, payload in quiet.sent],
            quiet.inbox.append,
            lambda: setattr(quiet, "connected", False),
            mend,
        )
        return
    if not (Path(sys.prefix) / "bin" / "nats-server").exists():
        pytest.skip("a broker is part of edgecase[cloud]")
    from support.broker import running_broker

    with running_broker(tmp_path, devices=(DEVICE,)) as broker:
        link = MqttLink(Login(broker.host, broker.port, Identity(broker.devices[DEVICE])), DEVICE, wake=lambda: None)
        link.start()
        until(lambda: link.connected, what="the link to stand")
        clients = [broker.ingest_client("edgecase/1/up/#")]

        def mend_broker() -> None:
            broker.start()
            clients.append(broker.ingest_client("edgecase/1/up/#"))

        def cut() -> None:
            clients[-1].leave()
            broker.kill()

        yield Line(
            link,
            lambda: [message.payload for client in clients for message in client.received],
            lambda message: clients[-1].send(wire.down_topic(DEVICE, type(message)), wire.encode(message)),
            cut,
            mend_broker,
        )
        link.stop()
        clients[-1].leave()


def a_status(number: int) -> bytes:
    return wire.encode(wire.Status(device=DEVICE, online=True, session="x", at=wire.now(), frames_seen=number))


def an_ack() -> wire.Ack:
    return wire.Ack(frame_id=secrets.token_hex(16), sha256="0" * 64)


def test_what_was_taken_is_heard(line: Line) -> None:
    payload = a_status(1)
    assert line.link.publish(TOPIC, payload)
    until(lambda: payload in line.heard(), what="the message")


def test_messages_come_in_their_order_and_then_none(line: Line) -> None:
    sent = [an_ack() for _ in range(5)]
    for message in sent:
        line.say(message)
    assert [until(line.link.receive, what="a message") for _ in sent] == sent
    assert line.link.receive() is None


def test_a_line_that_is_cut_takes_nothing_and_one_that_is_mended_has_another_session(line: Line) -> None:
    first = line.link.session
    line.cut()
    until(lambda: not line.link.connected, what="the cut to be noticed")
    assert not line.link.publish(TOPIC, a_status(1))
    line.mend()
    until(lambda: line.link.connected, within_s=30, what="the line to stand again")
    assert line.link.session != first
    payload = a_status(2)
    assert line.link.publish(TOPIC, payload)
    until(lambda: payload in line.heard(), what="the message")
    message = an_ack()
    line.say(message)
    assert until(line.link.receive, what="a message") == message
