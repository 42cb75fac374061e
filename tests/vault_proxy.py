"""Stands between services and a real Vault, and has calls fail as they fail in the world.

What reaches Vault is done there: a call whose answer is lost has happened, and nobody heard of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal

ANSWER_MAX_S = 60.0
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host", "date", "server"}


@dataclass(frozen=True)
class Call:
    """A call of Vault: `POST auth/token/create`."""

    method: str
    path: str


@dataclass(frozen=True)
class Refused:
    """Answered without Vault, as it or what stands before it answers."""

    status: int


@dataclass(frozen=True)
class Cut:
    """The connection ends: before Vault heard of the call, when it has done it, or in the middle of its answer."""

    when: Literal["before", "after", "half"]


@dataclass(frozen=True)
class Slow:
    """The call is held until the fault is over, or its caller gives up; then Vault does it, however late."""


Fault = Refused | Cut | Slow
Rule = Callable[[Call], Fault | None]
Watcher = Callable[[Call, bool], bool]
"""Hears of each call before it reaches Vault (False) and when it is done (True); says whether it goes no further."""

FAULTS: Mapping[str, Fault] = {
    **{str(status): Refused(status) for status in (429, 473, 500, 502, 503)},
    "cut before": Cut("before"), "answer lost": Cut("after"), "half an answer": Cut("half"), "slow": Slow(),
}  # fmt: skip
"""A Vault that runs: too much asked of it (429), a standby (473), ill, behind a gateway, slow; or its answer lost."""


class VaultProxy:
    """A server on loopback that forwards to a Vault.

    Args:
        vault: Where Vault is; asked at each call, since a Vault may start later than what stands before it.
    """

    def __init__(self, vault: Callable[[], str]) -> None:
        self._vault = vault
        self._rule: Rule = lambda call: None
        self._healed = threading.Event()
        self.watch: Watcher = lambda call, done: False
        self.faults_count = 0
        proxy = self

        class Handler(_Handler):
            def _proxy(self) -> VaultProxy:
                return proxy

        self._server = _Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> VaultProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="vault proxy").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, rule: Rule | Fault) -> None:
        """From now on calls fail: all of them, or as the rule says."""
        self._healed.clear()
        self._rule = rule if callable(rule) else lambda call: rule

    def heal(self) -> None:
        """From now on none fails; those that were held go on."""
        self._rule = lambda call: None
        self._healed.set()

    def fault_of(self, call: Call) -> Fault | None:
        fault = self._rule(call)
        self.faults_count += fault is not None
        return fault

    def hold(self) -> None:
        self._healed.wait(ANSWER_MAX_S)

    def forward(self, call: Call, body: bytes, headers: Mapping[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
        address = urllib.parse.urlsplit(self._vault())
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=ANSWER_MAX_S)
        try:
            connection.request(call.method, f"/v1/{call.path}", body or None, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that was killed in the middle is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _proxy(self) -> VaultProxy:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # Vault has methods of its own, such as LIST
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        proxy, body = self._proxy(), self.rfile.read(int(self.headers.get("content-length", 0)))
        call = Call(self.command, self.path.removeprefix("/v1/"))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        self.close_connection = True
        fault = proxy.fault_of(call)
        if isinstance(fault, Refused):
            self._answer(fault.status, [], json.dumps({"errors": [f"fault {fault.status}"]}).encode())
            return
        if isinstance(fault, Slow):
            proxy.hold()
        if fault == Cut("before") or proxy.watch(call, False):
            return
        try:
            status, told, answer = proxy.forward(call, body, headers)
        except (OSError, http.client.HTTPException):
            return  # no Vault: the connection ends, as with one that was killed
        if fault == Cut("after") or proxy.watch(call, True):
            return
        if fault != Cut("half"):
            self._answer(status, told, answer)
        elif answer:  # of an answer without a body nothing comes
            self._answer(status, told, answer, whole=False)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, whole: bool = True) -> None:
        self.close_connection = not whole
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if whole else body[: len(body) // 2])
