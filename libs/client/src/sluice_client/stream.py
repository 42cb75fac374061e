"""The live stream `/ws/events`: a pipeline's events as they happen, through restarts of the api."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from sluice_client.errors import Unreachable

OPEN_TIMEOUT_S = 10.0
AWAY_MAX_S = 60.0
"""An api that is restarted is back in seconds; after a minute somebody has to look."""

PAUSE_S = 0.5
PAUSE_MAX_S = 5.0
"""Between connections that gave nothing: doubled each time, so that clients do not keep a busy api busy."""

STOOD_S = 5.0
"""A connection that held so long was served, though nothing happened meanwhile."""

MESSAGE_MAX_BYTES = 2 * 1024 * 1024
"""One event: the contract's largest message with its envelope, as text."""

CLOSE_INVALID, CLOSE_GONE = 4400, 4410
"""The api's close codes for a wrong parameter, and for a position that is not kept any more."""

Event = dict[str, Any]


class Connection(Protocol):
    """What is used of a web socket."""

    def recv(self, timeout: float | None = None) -> str | bytes:
        """The next message."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class EventStream:
    """Events of one pipeline, from the moment it is opened on. A context manager.

    Guarantee: an interrupted connection is made again and goes on after the last event, where the api still keeps that
    place. `gap` then turns true: something may lie between, since another api may tell the topics in another order. It
    stands in the log.

    Args:
        url: The api's address.
        pipeline_id: The pipeline; it need not exist yet.
        away_max_s: How long the api may be away, or take connections and close them at once.
        clock: Seconds that only grow.
        sleep: Between tries.
        connect: Opens a connection, instead of websockets.
    """

    def __init__(
        self,
        url: str,
        pipeline_id: str,
        *,
        away_max_s: float = AWAY_MAX_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        connect: Callable[[str], Connection] | None = None,
    ) -> None:
        self.gap = False
        self._address = url.rstrip("/").replace("http", "ws", 1) + "/ws/events"
        self.pipeline_id = pipeline_id
        self._away_max_s = away_max_s
        self._clock, self._sleep, self._connect = clock, sleep, connect or _open
        self._last: str | None = None
        self._connection: Connection | None = None
        self._opened_at = self._again_at = 0.0
        self._pause_s = PAUSE_S
        self._vain_since: float | None = None

    def __enter__(self) -> EventStream:
        self._connection = self._connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def next(self, timeout_s: float) -> Event | None:
        """The next event; None if none comes in time.

        Raises:
            Unreachable: The api is away for longer than it may.
        """
        until = self._clock() + timeout_s
        while (left_s := until - self._clock()) > 0:
            if self._connection is None:
                pause_s = self._again_at - self._clock()
                if pause_s > 0:
                    self._sleep(min(pause_s, left_s))
                    continue
                self._connection, self.gap = self._connected(), True  # until now nobody listened
            try:
                event: Event = json.loads(self._connection.recv(left_s))
            except TimeoutError:
                return None
            except ConnectionClosed as closed:
                self._lost(closed)
            else:
                self._last = event["position"]
                self._served()
                return event
        return None

    def __iter__(self) -> Iterator[Event]:
        """Events without end."""
        while True:
            event = self.next(3_600)
            if event is not None:
                yield event

    def _served(self) -> None:
        self._vain_since, self._pause_s = None, PAUSE_S

    def _lost(self, closed: ConnectionClosed) -> None:
        self._connection, self.gap = None, True
        code = closed.rcvd.code if closed.rcvd is not None else 0
        if code == CLOSE_INVALID:
            raise Unreachable(f"{self._address} does not take the request: {closed}") from closed
        now = self._clock()
        if now - self._opened_at >= STOOD_S:
            self._served()
        if code == CLOSE_GONE:
            self._last = None
        elif self._vain_since is not None:
            if now - self._vain_since > self._away_max_s:
                raise Unreachable(
                    f"{self._address} closes every connection for {self._away_max_s:g} s ({closed}); "
                    "see what runs: sluice doctor"
                ) from closed
            self._again_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)

    def _connected(self) -> Connection:
        parameters = {"pipeline_id": self.pipeline_id, **({"after": self._last} if self._last else {})}
        address = f"{self._address}?{urlencode(parameters)}"
        until = self._clock() + self._away_max_s
        while True:
            try:
                connection = self._connect(address)
                self._opened_at = self._clock()
                if self._vain_since is None:
                    self._vain_since = self._opened_at
                return connection
            except (OSError, WebSocketException, TimeoutError) as error:
                if self._clock() > until:
                    raise Unreachable(
                        f"{self._address} does not answer for {self._away_max_s:g} s ({type(error).__name__}); "
                        "see what runs: sluice doctor"
                    ) from error
            self._sleep(PAUSE_S)


def _open(address: str) -> ClientConnection:
    return connect(address, open_timeout=OPEN_TIMEOUT_S, max_size=MESSAGE_MAX_BYTES, proxy=None, compression=None)
