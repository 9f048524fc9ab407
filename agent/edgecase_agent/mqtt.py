"""The device's line to the broker: it says what arrived and whether it stands, and remembers nothing that matters."""

from __future__ import annotations

import queue
import secrets
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edgecase_agent.identity import AGAIN, Identity, IdentityError
from edgecase_models import wire

P = ParamSpec("P")

_INBOX: Final = 1000
_QUEUED: Final = 100
_GOODBYE_S: Final = 2.0

log = structlog.get_logger()


class LinkDied(RuntimeError):
    """The network thread ended by a fault of ours: end the process, the supervisor starts it afresh."""


@dataclass(frozen=True)
class Login:
    """Where the broker is and as whom to go there."""

    host: str
    port: int
    identity: Identity


class MqttLink:
    """MQTT 3.1.1 over paho, in a thread of its own that reconnects for ever.

    The session is clean: every request is repeated until it is answered, and a session kept by the broker would only bring grants that
    have expired meanwhile. Each connection shows the certificate as it is then, so that a renewed one needs no other. `session` names the
    connection; it is in the last will, so that a late will of an old one can be told.
    """

    def __init__(self, login: Login, device: str, *, wake: Callable[[], None], keepalive_s: int = 20) -> None:
        self._device = device
        self._login = login
        # paho gives up after two of its intervals, one until it asks and one for the answer: three quarters make it one and a half.
        self._ping_every_s = max(1, keepalive_s * 3 // 4)
        self._wake = wake
        self._inbox: queue.Queue[wire.Down | Exception] = queue.Queue(_INBOX)
        self._subscription: int | None = None
        self._thread: threading.Thread | None = None
        self.session = ""
        self.connected = False
        self.refused = ""  # why the broker did not let us in, in its own words
        self.dropped = 0  # messages that could not be read or kept
        client = paho.Client(CallbackAPIVersion.VERSION2, device, clean_session=True, protocol=paho.MQTTv311)
        self._context = login.identity.context()
        client.tls_set_context(self._context)
        client.max_queued_messages_set(_QUEUED)
        client.reconnect_delay_set(1, 20 + secrets.randbelow(21))  # a fleet must not come back in step
        client.on_pre_connect = _guarded(self, MqttLink._on_pre_connect)
        client.on_connect = _guarded(self, MqttLink._on_connect)
        client.on_connect_fail = _guarded(self, MqttLink._on_connect_fail)
        client.on_subscribe = _guarded(self, MqttLink._on_subscribe)
        client.on_disconnect = _guarded(self, MqttLink._on_disconnect)
        client.on_message = _guarded(self, MqttLink._on_message)
        self._client = client

    def start(self) -> None:
        """Begin to connect; returns at once, also where the broker is not there."""
        before = set(threading.enumerate())
        self._client.connect_async(self._login.host, self._login.port, keepalive=self._ping_every_s)
        self._client.loop_start()
        self._thread = next(
            t for t in threading.enumerate() if t not in before and t.name.startswith("paho-mqtt-client")
        )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand a message to the network at QoS 1; False, and nothing was handed over, where the line is down or full."""
        if not self.connected:
            return False
        return self._client.publish(topic, payload, qos=1, retain=retain).rc is MQTTErrorCode.MQTT_ERR_SUCCESS

    def receive(self) -> wire.Down | None:
        """The next message from the cloud, if any; raises `LinkDied` where the network thread is no more."""
        try:
            item = self._inbox.get_nowait()
        except queue.Empty:
            if self._thread is not None and not self._thread.is_alive():
                raise LinkDied(f"the network thread has ended {self.refused}".strip()) from None
            return None
        if isinstance(item, Exception):
            raise LinkDied("a callback of the network thread failed") from item
        return item

    def stop(self, last_words: bytes = b"") -> None:
        """Leave; `last_words` replace the retained status, since a goodbye keeps the broker from sending the will."""
        if self.connected and last_words:
            info = self._client.publish(wire.up_topic(self._device, wire.Status), last_words, qos=1, retain=True)
            if info.rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
                info.wait_for_publish(_GOODBYE_S)
        self.connected = False
        self._client.disconnect()
        self._client.loop_stop()
        self._thread = None

    # The callbacks run in the network thread. They only note and enqueue.

    def _on_pre_connect(self, client: paho.Client, _data: object) -> None:
        self.session = secrets.token_hex(8)
        try:
            self._login.identity.present(self._context)
        except IdentityError as error:  # it goes on with what it has shown before
            self._refuse(str(error))
        will = wire.Status(device=self._device, online=False, session=self.session, at=wire.now())
        client.will_set(wire.up_topic(self._device, wire.Status), wire.encode(will), qos=1, retain=True)

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._refuse(f"not let in: {reason}; if this device was revoked or enrolled anew, {AGAIN}")
            return
        _, self._subscription = client.subscribe(wire.down_topic(self._device, "+"), qos=1)

    def _on_connect_fail(self, _client: paho.Client, _data: object) -> None:
        error = sys.exception()  # paho calls this where it handles what went wrong, and does not say it
        if isinstance(error, ssl.SSLCertVerificationError):
            self._refuse(
                f"the broker is not to be believed: {error.verify_message}; is the clock right? if so, {AGAIN}"
            )

    def _on_subscribe(
        self, client: paho.Client, _data: object, mid: int, reasons: Sequence[Any], _properties: object
    ) -> None:
        if mid != self._subscription:
            return
        if any(reason.is_failure for reason in reasons):
            self._refuse(f"subscription to {wire.down_topic(self._device, '+')} refused")
            client.disconnect()
            return
        self.refused = ""
        self.connected = True
        log.info("broker connected", host=self._login.host, port=self._login.port, session=self.session)

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if self.connected:
            log.warning("broker connection lost", reason=str(reason))
        elif problem := self._problem():  # it hangs up without a word on a certificate that it does not take
            self._refuse(problem)
        self.connected = False

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            if wire.device_of(message.topic) != self._device:
                raise wire.WireError(f"topic {message.topic[:80]!r} is not ours")  # noqa: TRY301
            self._inbox.put_nowait(wire.decode_down(bytes(message.payload)))
        except (wire.WireError, queue.Full) as error:
            self.dropped += 1
            log.warning("message dropped", topic=message.topic[:80], reason=str(error) or "the inbox is full")

    def _problem(self) -> str:
        try:
            return self._login.identity.validity().problem(wire.now())
        except IdentityError as error:
            return str(error)

    def _refuse(self, reason: str) -> None:
        if reason != self.refused:
            log.warning("broker refused", host=self._login.host, port=self._login.port, reason=reason)
        self.refused = reason


def _guarded(link: MqttLink, callback: Callable[Concatenate[MqttLink, P], None]) -> Callable[P, None]:
    """An exception in a callback would end paho's thread while `is_connected()` stays True; here it reaches the loop instead."""

    @wraps(callback)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            callback(link, *args, **kwargs)
        except Exception as error:  # noqa: BLE001
            with link._inbox.mutex:
                link._inbox.queue.append(error)
        link._wake()

    return guarded
