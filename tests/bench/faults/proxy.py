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

_PIECE_BYTES = 4096
_AHEAD = 64
_FOR_GOOD_S = 3600.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close() sends RST


@dataclass
class Weather:
    """What befalls connections. `latency_s` and `bytes_per_s` hold for each direction.

    Each piece of up to 4 kB is with `cut_chance` the last of its connection. While `half_open`, bytes vanish, nobody is told, and what
    has lost a byte stays dead for good. A connection whose client sends `reset_after_bytes` is reset on both sides.
    """

    latency_s: float = 0.0
    bytes_per_s: float = inf
    cut_chance: float = 0.0
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
        with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
            await _Wire(self, (reader, writer), there).carry()

    def cut(self) -> bool:
        """Whether a connection ends here."""
        ends = self._chance.random() < self.weather.cut_chance
        self.cuts += ends
        return ends

    def seen(self, piece: bytes) -> None:
        self.sent_bytes += len(piece)
        for word in self.words:
            self.counts[word] = self.counts.get(word, 0) + piece.count(word)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Wire:
    """One connection, both ways."""

    def __init__(self, proxy: Proxy, client: Stream, server: Stream) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
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
            for _, writer in (self._client, self._server):
                writer.close()

    async def _one_way(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upwards: bool) -> None:
        """Read as it comes, up to some pieces ahead, and write each piece when it is due."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD)
        writing = asyncio.ensure_future(self._write(pieces, sink))
        try:
            with contextlib.suppress(ConnectionError):
                await self._read(source, pieces, upwards=upwards)
                await writing
        finally:
            writing.cancel()

    async def _read(
        self, source: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], *, upwards: bool
    ) -> None:
        """Returns at the end of the stream; `ConnectionError` where the weather ends it."""
        weather = self._proxy.weather
        sent = 0
        while piece := await source.read(_PIECE_BYTES):
            weather = self._proxy.weather
            self._dead = self._dead or weather.half_open
            if self._dead:
                continue  # swallowed; whoever waits for an answer waits in vain
            if upwards:
                self._proxy.seen(piece)
                sent += len(piece)
                if sent >= weather.reset_after_bytes:
                    self._reset()
                    raise ConnectionResetError
            if self._proxy.cut():
                raise ConnectionAbortedError
            await pieces.put((asyncio.get_running_loop().time() + weather.latency_s, piece))
        if self._dead:
            await asyncio.sleep(_FOR_GOOD_S)  # a half-open link tells nobody of an end either
        await pieces.put((0.0, b""))

    async def _write(self, pieces: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while (item := await pieces.get())[1]:
            due_s, piece = item
            await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
            await asyncio.sleep(len(piece) / self._proxy.weather.bytes_per_s)
            sink.write(piece)
            await sink.drain()
        sink.write_eof()

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
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="proxy", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop, ended = loops[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
