"""The loop around ingest: takes messages from the broker, answers them, and lets go of each only when it is committed."""

from __future__ import annotations

import heapq
import queue
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import paho.mqtt.client as paho
import sqlalchemy as sa
import structlog
from msgspec import UNSET
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy.exc import OperationalError

from edgecase_cloud import policies
from edgecase_cloud.broker import ANSWER_TOPIC, ASK_TOPIC
from edgecase_cloud.catalogue import Bundle, Catalogue, Device, Event
from edgecase_cloud.ingest import Ingest, Reply
from edgecase_cloud.store import Unreachable
from edgecase_models import wire

UP_TOPIC: Final = f"{wire.ROOT}/up/#"
TRIES: Final = 3
BATCH: Final = 64
_RETRY_S: Final = 0.5
_AWAY_S: Final = 1.0
_POKE_EVERY_S: Final = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Arrival:
    """One message as it came in; `connection` counts connections, since packet ids mean nothing beyond theirs."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    connection: int


@dataclass(order=True)
class Waiting:
    """An arrival that is to be tried again."""

    due_s: float
    order: int
    arrival: Arrival = field(compare=False)
    failures: int = field(compare=False, default=0)


class Link:
    """The connection to the broker, with a session that the broker keeps while this process is away.

    The network thread only puts arrivals into a queue. It never judges and never raises. What the broker repeats while
    it is still in hand is not put there twice: letting go of it twice could hit another message that has its packet id.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext, client_id: str) -> None:
        self.arrivals: queue.Queue[Arrival] = queue.Queue()
        self.connection = 0
        self._in_hand: set[int] = set()  # packet ids of this connection that are not let go of
        self._in_hand_lock = threading.Lock()
        self._address = (host, port)
        self._subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            protocol=paho.MQTTv311,
            manual_ack=True,
        )
        self._client.tls_set_context(context)
        self._client.max_inflight_messages_set(200)
        self._client.reconnect_delay_set(1, 8)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def open(self) -> None:
        """Connect, and connect again whenever the broker comes back."""
        self._client.connect_async(*self._address, keepalive=15)
        self._thread.start()

    def close(self) -> None:
        """Leave in order; the broker keeps the session."""
        self._client.disconnect()
        self._thread.join(5)

    @property
    def alive(self) -> bool:
        """False when the network thread has ended; this process must then end, too."""
        return self._thread.is_alive()

    @property
    def subscribed(self) -> bool:
        """Whether messages can arrive now."""
        return self._subscribed.is_set()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand a message to the broker; False when there is no connection and nothing was handed over.

        What is retained goes at QoS 1. An answer goes at QoS 0: a device has no session in which it could wait, and asks again for what
        does not come, so that to keep each on the broker's disk would cost two syncs a frame and save nothing.
        """
        if not self._client.is_connected():
            return False
        return self._client.publish(topic, payload, qos=int(retain), retain=retain).rc == paho.MQTT_ERR_SUCCESS

    def let_go(self, arrival: Arrival) -> None:
        """Tell the broker that a message is done with; one of an earlier connection it will send again by itself."""
        with self._in_hand_lock:
            if arrival.connection != self.connection:
                return
            self._in_hand.discard(arrival.mid)
        self._client.ack(arrival.mid, arrival.qos)

    def _run(self) -> None:
        try:
            self._client.loop_forever(retry_first_connection=True)
        except Exception:  # the loop's own
            log.exception("network thread ended")

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.error("broker refused ingest", reason=str(reason))
            return
        with self._in_hand_lock:
            self.connection += 1
            self._in_hand.clear()
        client.subscribe([(UP_TOPIC, 1), (ASK_TOPIC, 1)])

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            log.error("broker refused a subscription of ingest", reasons=[str(reason) for reason in reasons])
            return
        self._subscribed.set()
        log.info("connected", connection=self.connection)

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._subscribed.clear()
        log.info("disconnected", reason=str(reason))

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        with self._in_hand_lock:
            if message.qos > 0 and message.mid in self._in_hand:
                return
            self._in_hand.add(message.mid)
        self.arrivals.put(Arrival(topic, bytes(message.payload), message.mid, message.qos, self.connection))


class Worker:
    """Works through arrivals: handle, commit, answer, let go. In this order, so that a kill loses nothing."""

    def __init__(
        self,
        ingest: Ingest,
        link: Link,
        *,
        clock: Callable[[], datetime] = wire.now,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ingest = ingest
        self._link = link
        self._clock = clock
        self._monotonic_s = monotonic_s
        self._waiting: list[Waiting] = []
        self._resting: dict[str, float] = {}  # kind of message: not before this moment
        self._count = 0

    def step(self, wait_s: float) -> int:
        """One batch, waiting at most `wait_s` for its first message; how many messages were done with."""
        done: list[Arrival] = []
        tried: list[Waiting] = []
        for waiting in self._batch(wait_s):
            arrival = waiting.arrival
            if arrival.connection != self._link.connection:
                continue  # the broker sends it again on the new connection
            if arrival.topic == ASK_TOPIC:
                self._link.publish(ANSWER_TOPIC, arrival.payload[:64])
                done.append(arrival)
            elif self._monotonic_s() < (rests_until_s := self._resting.get(_kind(arrival), 0.0)):
                self._put_off(waiting, rests_until_s)
            else:
                tried.append(waiting)
        now, replies = self._clock(), list[Reply]()
        outcomes = self._ingest.handle_all([(each.arrival.topic, each.arrival.payload) for each in tried], now)
        for waiting, outcome in zip(tried, outcomes, strict=True):
            answer = self._failed(waiting, outcome, now) if isinstance(outcome, Exception) else outcome
            if answer is not None:
                replies += answer
                done.append(waiting.arrival)
                if outcome is answer and self._resting.pop(_kind(waiting.arrival), 0.0):
                    log.info("going on", kind=_kind(waiting.arrival))
        sent = [self._link.publish(wire.down_topic(r.device, type(r.message)), wire.encode(r.message)) for r in replies]
        if not all(sent):
            return 0  # the connection is gone and with it the batch: all of it comes again
        for arrival in done:
            self._link.let_go(arrival)
        return len(done)

    def _batch(self, wait_s: float) -> list[Waiting]:
        batch: list[Waiting] = []
        now_s = self._monotonic_s()
        while self._waiting and self._waiting[0].due_s <= now_s and len(batch) < BATCH:
            batch.append(heapq.heappop(self._waiting))
        if not batch and self._waiting:
            wait_s = min(wait_s, max(0.0, self._waiting[0].due_s - now_s))
        try:
            while len(batch) < BATCH:
                arrival = self._link.arrivals.get(timeout=wait_s) if not batch else self._link.arrivals.get_nowait()
                self._count += 1
                batch.append(Waiting(now_s, self._count, arrival))
        except queue.Empty:
            pass
        return batch

    def _failed(self, waiting: Waiting, error: Exception, now: datetime) -> list[Reply] | None:
        """The answer to a message that could not be handled, or None where it was put off."""
        if isinstance(error, Unreachable):
            # Others of its kind would wait for the same server, each for its own timeout, and hold up those that need not.
            kind = _kind(waiting.arrival)
            if kind not in self._resting:
                log.warning("waiting", kind=kind, error=str(error))
            self._resting[kind] = self._monotonic_s() + _AWAY_S
            self._put_off(waiting, self._resting[kind])
            return None
        waiting.failures += 1
        log.error("message failed", topic=waiting.arrival.topic, failures=waiting.failures, exc_info=error)
        if waiting.failures >= TRIES:
            return self._set_aside(waiting, error, now)
        self._put_off(waiting, self._monotonic_s() + _RETRY_S * waiting.failures)
        return None

    def _set_aside(self, waiting: Waiting, error: Exception, now: datetime) -> list[Reply] | None:
        try:
            return self._ingest.set_aside(waiting.arrival.topic, waiting.arrival.payload, error, now)
        except OperationalError:
            self._put_off(waiting, self._monotonic_s() + _AWAY_S)
            return None
        except Exception:  # the loop's own: it stands in the log, if not in the catalogue
            log.exception("dead letter not written", topic=waiting.arrival.topic)
            return []

    def _put_off(self, waiting: Waiting, due_s: float) -> None:
        waiting.due_s = due_s
        heapq.heappush(self._waiting, waiting)


class Poker:
    """Tells every device which release and which policy are the newest, by their numbers, as a retained message."""

    def __init__(self, catalogue: Catalogue, link: Link) -> None:
        self._catalogue = catalogue
        self._link = link
        self._told: dict[str, wire.Poke] = {}
        self._connection = 0

    def step(self) -> int:
        """Tell those that were not told on this connection; how many."""
        if not self._link.subscribed:
            return 0
        if self._connection != self._link.connection:
            self._told.clear()  # another broker, or one that lost what it kept
            self._connection = self._link.connection
        with self._catalogue.session() as session:
            release = session.scalar(sa.select(sa.func.max(Bundle.release)))
            policy = session.scalar(sa.select(sa.func.max(Event.id)).where(Event.kind == policies.CHANGED))
            devices = session.scalars(sa.select(Device.id)).all()
        if release is None and policy is None:
            return 0
        poke = wire.Poke(release=release or 0, policy=UNSET if policy is None else policy)
        news = [device for device in devices if self._told.get(device) != poke]
        for device in news:
            if self._link.publish(wire.down_topic(device, wire.Poke), wire.encode(poke), retain=True):
                self._told[device] = poke
        if news:
            log.info("release told", release=release, policy=policy, devices=len(news))
        return len(news)


def run(link: Link, worker: Worker, poker: Poker, stop: threading.Event) -> None:
    """Serve until `stop`; raises `RuntimeError` when the network thread has died."""
    link.open()
    next_poke_s = 0.0
    try:
        while not stop.is_set():
            worker.step(wait_s=0.2)
            if time.monotonic() >= next_poke_s:
                next_poke_s = time.monotonic() + _POKE_EVERY_S
                _poke(poker)
            if not link.alive:
                raise RuntimeError("the network thread has ended; its trace is in the log above")
    finally:
        link.close()


def _kind(arrival: Arrival) -> str:
    return arrival.topic.rpartition("/")[2]


def _poke(poker: Poker) -> None:
    try:
        poker.step()
    except OperationalError as error:
        log.warning("releases cannot be read now", error=str(error.orig))
