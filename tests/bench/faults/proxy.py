"""A TCP proxy with the faults of bad links: slow, narrow, cut, half-open, reset in the middle. The weather may change at any time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

_CHUNK_BYTES = 4096
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close() sends RST


@dataclass
class Weather:
    """What befalls connections. `latency_s` and `bytes_per_s` hold for each direction.

    `cut_share` of new connections end after 0 to `cut_within_bytes` bytes. While `half_open`, bytes vanish, nobody is told, and what has
    lost a byte stays dead for good. A connection whose client has sent `reset_after_bytes` is reset on both sides.
    """

    latency_s: float = 0.0
    bytes_per_s: float = inf
    cut_share: float = 0.0
    cut_within_bytes: int = 30_000
    half_open: bool = False
    reset_after_bytes: float = inf


@dataclass
class Proxy:
    """Listens on `host` and passes on to `target`; `counts` holds how often each of `words` was seen on the way there."""

    host: str
    target: tuple[str, int]
    words: tuple[bytes, ...] = ()
    weather: Weather = field(default_factory=Weather)
    port: int = 0
    connections: int = 0
    refused: int = 0  # of them, those that `target` did not take
    cuts: int = 0
    resets: int = 0
    sent_bytes: int = 0
    counts: dict[bytes, int] = field(default_factory=dict)
    _chance: random.Random = field(default_factory=lambda: random.Random(4))

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there = await asyncio.open_connection(*self.target)
        except OSError:
            self.refused += 1
            writer.close()
            return
        cut = self._chance.random() < self.weather.cut_share
        cut_at = self._chance.randrange(self.weather.cut_within_bytes) if cut else inf
        wire = _Wire(self, (reader, writer), there, cut_at)
        await wire.carry()

    def seen(self, chunk: bytes) -> None:
        self.sent_bytes += len(chunk)
        for word in self.words:
            self.counts[word] = self.counts.get(word, 0) + chunk.count(word)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Wire:
    """One connection, both ways."""

    def __init__(self, proxy: Proxy, client: Stream, server: Stream, cut_at: float) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._cut_at = cut_at
        self._carried = 0
        self._dead = False

    async def carry(self) -> None:
        """Until either side ends it, or the weather does."""
        ways = [
            asyncio.ensure_future(self._one_way(self._client[0], self._server[1], upwards=True)),
            asyncio.ensure_future(self._one_way(self._server[0], self._client[1], upwards=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(ways, timeout=1.0)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for _, writer in (self._client, self._server):
                writer.close()

    async def _one_way(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upwards: bool) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while (item := await waiting.get())[1]:
                await asyncio.sleep(max(0.0, item[0] - loop.time()))
                await asyncio.sleep(len(item[1]) / self._proxy.weather.bytes_per_s)
                sink.write(item[1])
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

        delivering = asyncio.ensure_future(deliver())
        sent = 0
        try:
            with contextlib.suppress(ConnectionError):
                while chunk := await source.read(_CHUNK_BYTES):
                    if self._dead or self._proxy.weather.half_open:
                        self._dead = True  # swallowed; whoever waits for an answer waits in vain
                        continue
                    sent += len(chunk)
                    self._carried += len(chunk)
                    if upwards:
                        self._proxy.seen(chunk)
                        if sent >= self._proxy.weather.reset_after_bytes:
                            self._reset()
                            return
                    if self._carried >= self._cut_at:
                        self._proxy.cuts += 1
                        return
                    waiting.put_nowait((loop.time() + self._proxy.weather.latency_s, chunk))
                    while waiting.qsize() > 16 and not delivering.done():
                        await asyncio.sleep(0.005)
                if self._dead:
                    await asyncio.Event().wait()  # a half-open link tells nobody of an end either
                waiting.put_nowait((0.0, b""))
                await delivering
        finally:
            delivering.cancel()

    def _reset(self) -> None:
        self._proxy.resets += 1
        for _, writer in (self._client, self._server):
            end = writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


@contextlib.contextmanager
def running(*proxies: Proxy) -> Iterator[None]:
    """The proxies serve, in a thread of their own."""
    ready, loops = threading.Event(), []

    async def serve() -> None:
        servers = [await proxy.listen() for proxy in proxies]
        ended = asyncio.Event()
        loops.append((asyncio.get_running_loop(), ended))
        ready.set()
        await ended.wait()
        for server in servers:
            server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="proxy", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop, ended = loops[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
