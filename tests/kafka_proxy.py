"""Stands between a service and a real Kafka, and knows when it produces to a topic.

Frames pass as they are, logins too; only where an answer names the broker's own address, it names this one's, so that
the client comes here again. (Kafka protocol: a frame is a length of four bytes and a body; a request begins with its
kind, version and correlation id, an answer with the correlation id. Host and port stand side by side in metadata.)
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

PRODUCE = 0
LOOPBACK = "127.0.0.1"
FRAME_MAX_BYTES = 128 * 1024 * 1024

Watcher = Callable[[str, bool], bool]
"""Hears of each produce to a watched topic, before Kafka has it (False) and when Kafka has acknowledged it (True); says
whether the frame goes no further."""


class KafkaProxy:
    """A listener on loopback that forwards to a broker on loopback.

    Args:
        port: The broker's; asked for at each connection.
        topics: Full names of those that are watched.
    """

    def __init__(self, port: Callable[[], int], topics: Sequence[str]) -> None:
        self._broker = port
        self._topics = [(name, name.encode()) for name in topics]
        self.watch: Watcher = lambda topic, done: False
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self._open: set[socket.socket] = set()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> KafkaProxy:
        threading.Thread(target=self._accept, daemon=True, name="kafka proxy").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()
        for one in list(self._open):
            _close(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection((LOOPBACK, self._broker()), 10)
                except OSError:
                    _close(client)
                    continue
                link = _Link(self, client, broker)
                self._open |= {client, broker}
                for pump in (link.to_broker, link.to_client):
                    threading.Thread(target=self._run, args=(pump, client, broker), daemon=True).start()

    def _run(self, pump: Callable[[], None], *ends: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                pump()
        finally:
            for one in ends:
                _close(one)
            self._open -= set(ends)

    def watched(self, frame: bytes) -> list[str]:
        """The watched topics that a request produces to."""
        if struct.unpack(">h", frame[:2])[0] != PRODUCE:
            return []
        return [name for name, text in self._topics if text in frame]

    def readdress(self, frame: bytes) -> bytes:
        """An answer, with this listener in place of the broker."""
        host, mine = LOOPBACK.encode(), self._listener.getsockname()[1]
        return frame.replace(host + struct.pack(">i", self._broker()), host + struct.pack(">i", mine))


class _Link:
    """One connection."""

    def __init__(self, proxy: KafkaProxy, client: socket.socket, broker: socket.socket) -> None:
        broker.settimeout(None)
        self._proxy, self._client, self._broker = proxy, client, broker
        self._produced: dict[bytes, list[str]] = {}

    def to_broker(self) -> None:
        while (frame := _read(self._client)) is not None:
            topics = self._proxy.watched(frame)
            if any(self._proxy.watch(topic, False) for topic in topics):
                return
            if topics:
                self._produced[frame[4:8]] = topics
            self._broker.sendall(struct.pack(">i", len(frame)) + frame)

    def to_client(self) -> None:
        while (frame := _read(self._broker)) is not None:
            if any(self._proxy.watch(topic, True) for topic in self._produced.pop(frame[:4], ())):
                return
            frame = self._proxy.readdress(frame)
            self._client.sendall(struct.pack(">i", len(frame)) + frame)


def _read(end: socket.socket) -> bytes | None:
    head = _exactly(end, 4)
    if head is None:
        return None
    size = struct.unpack(">i", head)[0]
    assert 0 <= size <= FRAME_MAX_BYTES, f"no frame of Kafka has {size} bytes"
    return _exactly(end, size)


def _exactly(end: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        if not (part := end.recv(count - len(parts))):
            return None
        parts += part
    return bytes(parts)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
