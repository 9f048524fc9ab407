"""Whether the parts do what they are for: a process that runs may have stopped to work, as servers do after a full disk."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self

import structlog

from edgecase_cloud import broker
from edgecase_cloud.store import ObjectStore, StoreError

EVERY_S: Final = 5.0
SICK_AFTER_S: Final = 30.0
"""For so long a part may fail every check: a machine that is busy is not ill."""

log = structlog.get_logger()


class Health:
    """Asks again and again, in a thread of its own, since an answer may take its time."""

    def __init__(
        self,
        checks: Mapping[str, Callable[[], bool]],
        *,
        every_s: float = EVERY_S,
        sick_after_s: float = SICK_AFTER_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._every_s = every_s
        self._sick_after_s = sick_after_s
        self._monotonic_s = monotonic_s
        self._failing_since_s: dict[str, float] = {}
        self._told: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # a check that still waits ends with this process

    def sick(self, running: Collection[str]) -> list[str]:
        """Parts that run and have failed for long. One that does not run is somebody else's: its time begins when it does."""
        for name in self._checks:
            if name not in running:
                self.forget(name)
        long_ago_s = self._monotonic_s() - self._sick_after_s
        return [name for name, since_s in tuple(self._failing_since_s.items()) if since_s < long_ago_s]

    def forget(self, name: str) -> None:
        """Its time begins anew."""
        self._failing_since_s.pop(name, None)

    def is_news(self, name: str) -> bool:
        """True once, until it works again."""
        is_news = name not in self._told
        self._told.add(name)
        return is_news

    def look(self) -> None:
        """One look at each."""
        for name, check in self._checks.items():
            began_s = self._monotonic_s()
            if check():
                self.forget(name)
                self._told.discard(name)
            else:
                self._failing_since_s.setdefault(name, began_s)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self.look()
            except Exception:  # the loop's own
                log.exception("health cannot be told")


# Checks: True where the part does its work now; none raises


def has_bucket(store: ObjectStore) -> bool:
    """Whether the store has our bucket, which is made where it is missing."""
    with contextlib.suppress(StoreError):
        store.ensure_bucket()
        return True
    return False


def keeps(store: ObjectStore) -> bool:
    """Whether the store takes an object and has it."""
    key, content = "probe/up", secrets.token_bytes(64)
    with contextlib.suppress(StoreError):
        store.put(key, content)
        return store.get(key) == content
    return False


def answers(host: str, port: int) -> bool:
    """Whether the pages are served."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Asked:
    """What became of a question to ingest: the broker has it (`taken`), its answer has come through the broker (`answered`)."""

    taken: bool = False
    answered: bool = False


def ask_ingest(host: str, port: int, context: ssl.SSLContext, within_s: float) -> Asked:
    """Ask, at the quality of service that devices use, and wait for the answer."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    question = secrets.token_hex(8).encode()
    taken: list[int] = []
    heard: list[bytes] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.tls_set_context(context)

    def subscribe(*_: object) -> None:
        client.subscribe(broker.ANSWER_TOPIC, qos=1)

    def ask(*_: object) -> None:
        client.publish(broker.ASK_TOPIC, question, qos=1)

    client.on_connect = subscribe
    client.on_subscribe = ask
    client.on_publish = lambda _client, _data, mid, *_: taken.append(mid)
    client.on_message = lambda _client, _data, message: heard.append(bytes(message.payload))
    try:
        client.connect(host, port, keepalive=5)
        deadline_s = time.monotonic() + within_s
        while question not in heard and time.monotonic() < deadline_s:
            client.loop(timeout=0.1)
        client.disconnect()
    except OSError:
        pass
    return Asked(bool(taken), question in heard)
