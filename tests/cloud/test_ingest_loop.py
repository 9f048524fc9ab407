"""The loop around ingest: what it lets go of, what it tries again, and that one bad message stops no other."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from edgecase_cloud import durable, mqtt
from edgecase_cloud.catalogue import Bundle, Event
from edgecase_cloud.ingest import Ingest, Reply
from edgecase_cloud.services import Services
from edgecase_cloud.store import Unreachable
from edgecase_models import wire
from support.broker import Broker, Client, running_broker
from support.cloud import NOW, Told, shot
from support.wait import until


class Troubled(Ingest):
    """Ingest that trips over frames of camera `poison`, and cannot ask the store about camera `away` for a while."""

    def __init__(self, parts: Services) -> None:
        super().__init__(parts)
        self.tries: list[str] = []
        self.away = True

    def handle_all(self, messages: Sequence[tuple[str, bytes]], now: datetime) -> list[list[Reply] | Exception]:
        answers: list[list[Reply] | Exception] = []
        for topic, payload in messages:
            message = wire.decode_up(payload)
            assert isinstance(message, wire.Offer)
            self.tries.append(message.camera)
            if message.camera == "poison":
                answers.append(KeyError("a fault of ours"))
            elif message.camera == "away" and self.away:
                answers.append(Unreachable("away"))
            else:
                answers += super().handle_all([(topic, payload)], now)
        return answers


@contextmanager
def serving(broker: Broker, parts: Services, ingest: Ingest, session: str) -> Iterator[mqtt.Link]:
    """The loop in a thread, ended at the end."""
    link = mqtt.Link(broker.host, broker.port, broker.ingest_context(), session)
    worker = mqtt.Worker(ingest, link)
    stop = threading.Event()
    thread = threading.Thread(target=mqtt.run, args=(link, worker, mqtt.Poker(parts.catalogue, link), stop))
    thread.start()
    try:
        until(lambda: link.subscribed, what="ingest to subscribe")
        yield link
    finally:
        stop.set()
        thread.join(10)


def kinds(client: Client) -> list[str]:
    return [topic.rpartition("/")[2] for topic in client.topics()]


def offer(client: Client, **changed: object) -> str:
    frame = shot(**changed)  # type: ignore[arg-type]
    client.send("edgecase/1/up/cam-1/offer", wire.encode(frame.offer))
    return frame.id


def test_a_message_that_ingest_trips_over_is_tried_three_times_and_set_aside_while_others_flow(
    tmp_path: Path, parts: Services
) -> None:
    ingest = Troubled(parts)
    with running_broker(tmp_path, devices=("cam-1",)) as broker:
        device = broker.device_client("cam-1")
        with serving(broker, parts, ingest, "poison"):
            offer(device, camera="poison")
            for _ in range(5):
                offer(device, camera="good")
            until(lambda: kinds(device).count("grant") == 5)
            assert ingest.tries.count("poison") < mqtt.TRIES
            until(lambda: ingest.tries.count("poison") == mqtt.TRIES, what="three tries")
            offer(device, camera="good")
            until(lambda: kinds(device).count("grant") == 6)
        assert ingest.tries.count("poison") == mqtt.TRIES
        device.leave()
        after = Troubled(parts)
        with serving(broker, parts, after, "poison"):
            device = broker.device_client("cam-1")
            offer(device, camera="good")
            until(lambda: "grant" in kinds(device))
            assert "poison" not in after.tries, "the broker was told to let go of it"
            device.leave()


def test_a_message_that_waits_for_the_store_is_neither_lost_nor_in_the_way(tmp_path: Path, parts: Services) -> None:
    ingest = Troubled(parts)
    with running_broker(tmp_path, devices=("cam-1",)) as broker, serving(broker, parts, ingest, "away"):
        device = broker.device_client("cam-1")
        waiting = offer(device, camera="away")
        until(lambda: ingest.tries.count("away") >= 1)
        ingest.away = False
        until(lambda: any(waiting.encode() in message.payload for message in device.received), what="its grant")
        device.leave()


def test_what_the_broker_repeats_meanwhile_is_in_hand_once(tmp_path: Path, parts: Services) -> None:
    ingest = Troubled(parts)
    with running_broker(tmp_path, devices=("cam-1",)) as broker, serving(broker, parts, ingest, "repeats") as link:
        device = broker.device_client("cam-1")
        offer(device, camera="away")
        until(lambda: ingest.tries.count("away") >= broker.ack_wait_s + 3, what="the time of a repetition to pass")
        ingest.away = False
        until(lambda: kinds(device).count("grant") == 1)
        offer(device, camera="last")
        until(lambda: kinds(device).count("grant") == 2)
        assert link.arrivals.empty()
        device.leave()


def test_what_was_not_finished_when_the_process_died_comes_again(tmp_path: Path, parts: Services) -> None:
    """A process that is killed has sent no PUBACK; so has a link whose worker never let go."""
    with running_broker(tmp_path, devices=("cam-1",)) as broker:
        link = mqtt.Link(broker.host, broker.port, broker.ingest_context(), "killed")
        link.open()
        until(lambda: link.subscribed)
        device = broker.device_client("cam-1")
        ids = {offer(device) for _ in range(10)}
        until(lambda: link.arrivals.qsize() == 10)
        link.close()
        with serving(broker, parts, Ingest(parts), "killed"):
            until(lambda: kinds(device).count("grant") >= 10, what="ten grants")
        granted = {wire.decode_down(message.payload).frame_id for message in device.received}  # type: ignore[union-attr]
        assert granted == ids
        device.leave()


def test_a_kill_of_the_broker_in_the_middle_loses_no_message(tmp_path: Path, parts: Services) -> None:
    with (
        running_broker(tmp_path, devices=("cam-1",)) as broker,
        serving(broker, parts, Ingest(parts), "broker") as link,
    ):
        device = broker.device_client("cam-1", clean_session=False, client_id="cam-1")
        ids = {offer(device) for _ in range(20)}
        broker.kill()
        until(lambda: not link.subscribed)
        broker.start()
        until(device.is_connected)
        ids |= {offer(device) for _ in range(20)}

        def granted() -> set[str]:
            return {wire.decode_down(message.payload).frame_id for message in device.received}  # type: ignore[union-attr]

        until(lambda: granted() == ids, within_s=30, what="a grant for every offer")
        device.leave()


def test_a_newer_release_is_told_to_every_device_and_to_those_that_come_later(tmp_path: Path, parts: Services) -> None:
    with running_broker(tmp_path, devices=("cam-1", "cam-2")) as broker, serving(broker, parts, Ingest(parts), "poke"):
        first = broker.device_client("cam-1")
        for number in (1, 2):
            with parts.catalogue.session.begin() as session:
                digest = f"{number:064}"
                session.add(
                    Bundle(digest=digest, name="m", version=str(number), release=number, created_at=NOW, path="x")
                )
            until(lambda number=number: wire.encode(wire.Poke(release=number)) in [m.payload for m in first.received])
        late = broker.device_client("cam-2")
        until(lambda: [m.payload for m in late.received] == [wire.encode(wire.Poke(release=2))], what="retained poke")
        assert late.received[0].retained
        with parts.catalogue.session.begin() as session:
            event = Event(at=NOW, kind="policy", subject="default", detail={})
            session.add(event)
        poke = wire.encode(wire.Poke(release=2, policy=event.id))
        until(lambda: poke in [m.payload for m in first.received], what="poke for a policy")
        first.leave()
        late.leave()


def test_a_broker_that_forgot_is_told_again(tmp_path: Path, parts: Services) -> None:
    with parts.catalogue.session.begin() as session:
        session.add(Bundle(digest="0" * 64, name="m", version="1", release=1, created_at=NOW, path="x"))
    broker = Broker(tmp_path / "one")
    broker.add_device("cam-1")
    broker.start()
    with serving(broker, parts, Ingest(parts), "forgot") as link:
        until(lambda: link.subscribed)
        broker.kill()
        broker.folder = tmp_path / "two"  # all it has there is who it is
        shutil.copytree(tmp_path / "one" / "keys", broker.folder / "keys")
        broker.start()
        device = broker.device_client("cam-1")
        until(lambda: "poke" in kinds(device), what="poke on the new broker")
        device.leave()
    broker.stop()


class Recorded(mqtt.Link):
    """Notes the order in which a worker answers and lets go."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1, ssl.create_default_context(), "recorded")
        self.order: list[str] = []
        self.works = True

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:  # noqa: ARG002
        self.order.append("answer")
        return self.works

    def let_go(self, arrival: mqtt.Arrival) -> None:  # noqa: ARG002
        self.order.append("let go")


def arrive(link: mqtt.Link) -> None:
    link.arrivals.put(mqtt.Arrival("edgecase/1/up/cam-1/offer", wire.encode(shot().offer), 1, 1, link.connection))


def test_in_strict_mode_a_batch_is_on_the_disk_before_any_of_it_is_answered(parts: Services) -> None:
    link, told = Recorded(), Told(parts)
    for frame in (shot() for _ in range(3)):
        grant = told.granted(frame)
        told.put(frame, grant)
        topic, payload = wire.up_topic("cam-1", wire.Stored), wire.encode(frame.stored(grant))
        link.arrivals.put(mqtt.Arrival(topic, payload, 1, 1, link.connection))
    worker = mqtt.Worker(Ingest(parts, make_durable=lambda: link.order.append("on disk")), link)
    assert worker.step(wait_s=0) == 3
    assert link.order == ["on disk", "answer", "answer", "answer", "let go", "let go", "let go"]


def test_what_could_not_be_answered_is_not_let_go_of(parts: Services) -> None:
    link = Recorded()
    link.works = False
    arrive(link)
    assert mqtt.Worker(Ingest(parts), link).step(wait_s=0) == 0
    assert "let go" not in link.order


def test_what_came_over_an_earlier_connection_is_left_to_the_broker(parts: Services) -> None:
    """Its packet id may by now be that of another message."""
    link = Recorded()
    arrive(link)
    link.connection += 1
    assert mqtt.Worker(Ingest(parts), link).step(wait_s=0) == 0
    assert link.order == []


def test_syncfs_works_here(tmp_path: Path) -> None:
    durable.sync_filesystem(tmp_path)()
    with pytest.raises(FileNotFoundError):
        durable.sync_filesystem(tmp_path / "nowhere")
