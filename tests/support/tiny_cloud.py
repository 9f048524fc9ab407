"""The cloud's side of the wire in fifty lines, over a real broker and a store: it checks the object and then acknowledges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from edgecase_models import wire
from support.store import Store

if TYPE_CHECKING:
    from support.broker import Broker, Client


@dataclass
class TinyCloud:
    """Answers offers and stored messages as `answer_offer` and the store say; `silent` hears and says nothing."""

    store: Store
    silent: bool = False
    heard: Counter[str] = field(default_factory=Counter)  # "offer <id>", "stored <id>"
    offers: dict[str, wire.Offer] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)
    statuses: list[wire.Status] = field(default_factory=list)
    answer_offer: Callable[[wire.Offer], wire.Down | None] | None = None
    grant_lifetime: timedelta = timedelta(minutes=5)

    def hear(self, message: wire.Up) -> wire.Down | None:
        """The answer to one message."""
        if isinstance(message, wire.Status):
            self.statuses.append(message)
            return None
        self.heard[f"{type(message).__name__.lower()} {message.frame_id}"] += 1
        if self.silent:
            return None
        if isinstance(message, wire.Offer):
            self.offers[message.frame_id] = message
            return self.answer_offer(message) if self.answer_offer else self.grant(message)
        if self.store.sha256(message.key) != message.sha256:
            return self.grant(self.offers[message.frame_id])
        self.acknowledged[message.frame_id] += 1
        return wire.Ack(frame_id=message.frame_id, sha256=message.sha256)

    def grant(self, offer: wire.Offer) -> wire.Grant:
        """A place in the store for the offered frame."""
        key = f"frames/{offer.device}/{offer.frame_id}.jpg"
        return wire.Grant(
            frame_id=offer.frame_id,
            url=self.store.url(key),
            headers={"x-amz-checksum-sha256": "a-checksum", "If-None-Match": "*"},
            key=key,
            expires_at=wire.now() + self.grant_lifetime,
        )


def serve(cloud: TinyCloud, broker: Broker) -> Client:
    """Put the cloud on a broker; `leave()` the returned client at the end."""
    client = broker.ingest_client("edgecase/1/up/#")

    def hear(_client: object, _data: object, message: object) -> None:
        topic, payload = message.topic, message.payload  # type: ignore[attr-defined]
        answer = cloud.hear(wire.decode_up(payload))
        if answer is not None:
            client.publish(wire.down_topic(wire.device_of(topic), type(answer)), wire.encode(answer), qos=1)

    client.on_message = hear
    return client
