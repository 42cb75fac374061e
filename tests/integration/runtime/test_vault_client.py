"""The services' one client of Vault: what each fault means, who is asked as, and that no token shows."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sluice_runtime.vault.client import NO_TOKEN, Connection, VaultPlace
from sluice_runtime.vault.faults import NothingThere, TokenUnknown, VaultAway, VaultRefused
from tests.integration.localstack.vault import tls
from tests.vault import RealVault

OTHER = SecretStr("hvs.CANARY-other")
UNTIL_S = 30

Heard = tuple[str, str, dict[str, str]]
"""Method, path and headers of a request."""


class Script:
    """A server that answers as it is told, and keeps what it heard. `None` as an answer: it hangs."""

    def __init__(self, answer: Callable[[Heard], bytes | None]) -> None:
        self.answer = answer
        self.heard: list[Heard] = []
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.heard]

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            line, *rest = iter(lambda: stream.readline().decode().strip(), "")
            headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
            stream.read(int(headers.get("content-length", 0)))
            method, path, _ = line.split()
            self.heard.append((method, path.removeprefix("/v1/"), headers))
            body = self.answer(self.heard[-1])
            if body is None:
                self.over.wait(UNTIL_S)
            else:
                connection.sendall(body)


@contextmanager
def script(answer: Callable[[Heard], bytes | None]) -> Iterator[Script]:
    made = Script(answer)
    serving = threading.Thread(target=made.serve, daemon=True)
    serving.start()
    try:
        yield made
    finally:
        made.close()
        serving.join(UNTIL_S)


def http(status: int, body: Any = None) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(text)}\r\n\r\n".encode() + text


def errors(status: int, *texts: str) -> bytes:
    return http(status, {"errors": list(texts)})


def login(token: str = "hvs.CANARY-own", ttl_s: float = 3_600) -> bytes:
    return http(200, {"auth": {"client_token": token, "lease_duration": ttl_s}})


def told(**by_path: bytes | None) -> Callable[[Heard], bytes | None]:
    """A Vault that lets us log in, says that our token lives, and answers `x` as told."""
    answers: dict[str, bytes | None] = {
        "auth/approle/login": login(), "auth/token/lookup-self": http(200, {"data": {}}), **by_path,
    }  # fmt: skip
    return lambda heard: answers[heard[1]]


@pytest.fixture
def place(tmp_path: Path) -> VaultPlace:
    for name in ("role-id", "secret-id"):
        (tmp_path / name).write_text(f"CANARY-{name}\n")
    return VaultPlace("", tmp_path / "role-id", tmp_path / "secret-id", call_timeout_s=5)


def connect(place: VaultPlace, url: str, timeout_s: float = 5.0) -> Connection:
    return Connection(replace(place, address=url, call_timeout_s=timeout_s))


FAULTS: dict[str, tuple[bytes, type[Exception], str]] = {
    "refused": (errors(400, "missing field"), VaultRefused, "missing field"),
    "denied": (errors(403, "permission denied"), VaultRefused, "policy|policies"),
    "nothing": (errors(404), NothingThere, "x: "),
    "method": (errors(405, "unsupported operation"), VaultAway, "unsupported"),
    "accessor": (errors(400, "1 error occurred:\n\t* invalid accessor\n\n"), TokenUnknown, "invalid accessor"),
    "accessor, older": (errors(403, "invalid accessor"), TokenUnknown, "invalid accessor"),
    "not yet": (errors(412, "required index state not present"), VaultAway, "index state"),
    "too much": (errors(429, "request path quota exceeded"), VaultAway, "quota"),
    "broken": (errors(500, "internal error"), VaultAway, "internal"),
    "uninitialised": (errors(501, "not initialized"), VaultAway, "initialized"),
    "proxy": (errors(502), VaultAway, "x: "),
    "sealed": (errors(503, "Vault is sealed"), VaultAway, "sealed"),
    "proxy's time": (errors(504), VaultAway, "x: "),
    "page": (b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 6\r\n\r\n<html>", VaultAway, "not Vault's"),
    "list": (http(200, []), VaultAway, "not Vault's"),
    "odd error": (http(500, []), VaultAway, "not Vault's"),
    "odd errors": (http(500, {"errors": [17]}), VaultAway, "not Vault's"),
    "redirect": (
        b"HTTP/1.1 307 X\r\nconnection: close\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        VaultAway,
        "307",
    ),
    "garbage": (b"SSH-2.0-OpenSSH_9.6\r\n", VaultAway, "reached"),
    "cut": (b"", VaultAway, "reached"),
}


@pytest.mark.covers("V4", "V8")
@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_says_what_the_caller_does_next(
    place: VaultPlace, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "hvs.CANARY-environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    answer, kind, says = FAULTS[case]
    with script(told(x=answer)) as vault:
        connection = connect(place, vault.url)
        for call in (lambda: connection.ask("GET", "x"), lambda: connection.ask_with(OTHER, "POST", "x", {"a": 1})):
            with pytest.raises(kind, match=says) as caught:
                call()
            assert type(caught.value) is kind
            assert "CANARY" not in str(caught.value)
            assert caught.value.__cause__ is None
    assert vault.paths().count("auth/approle/login") == 1
    assert [headers.get("x-vault-token", "") for _, path, headers in vault.heard if path == "x"] == [
        "hvs.CANARY-own", OTHER.get_secret_value()
    ]  # fmt: skip


@pytest.mark.covers("V8")
def test_a_vault_that_hangs_or_is_not_there_is_away(place: VaultPlace) -> None:
    with script(told(x=None)) as vault:
        connection = connect(place, vault.url, timeout_s=0.3)
        with pytest.raises(VaultAway, match=r"GET x: no answer in 0\.3 s"):
            connection.ask("GET", "x")
    with pytest.raises(VaultAway, match="reached"):
        connection.ask("GET", "x")
    with pytest.raises(VaultAway, match="reached"):
        connect(place, "http://127.0.0.1:1").ask_with(NO_TOKEN, "GET", "x")


def test_what_has_no_body_is_empty(place: VaultPlace) -> None:
    with script(told(x=b"HTTP/1.1 204 X\r\n\r\n")) as vault:
        assert connect(place, vault.url).ask("DELETE", "x") == {}


@pytest.mark.covers("V5")
def test_a_token_that_is_unknown_is_told_from_a_right_that_lacks(place: VaultPlace) -> None:
    unknown = errors(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
    with script(told(x=unknown)) as vault, pytest.raises(TokenUnknown):
        connect(place, vault.url).ask_with(OTHER, "GET", "x")
    tokens = iter(["first", "second"])
    alive = {"second"}

    def forgetful(heard: Heard) -> bytes:
        if heard[1] == "auth/approle/login":
            return login(f"hvs.CANARY-{next(tokens)}")
        return http(200, {"data": {"x": 1}}) if heard[2]["x-vault-token"][11:] in alive else unknown

    with script(forgetful) as vault:
        connection = connect(place, vault.url)
        assert connection.ask("POST", "auth/token/revoke-accessor", {"accessor": "a"}) == {"data": {"x": 1}}
        assert vault.paths() == [
            "auth/approle/login", "auth/token/revoke-accessor", "auth/token/lookup-self",
            "auth/approle/login", "auth/token/revoke-accessor",
        ]  # fmt: skip
        alive.clear()  # logged in anew, and still no right: it is not tried for ever
        tokens = iter(["third"])
        with pytest.raises(VaultRefused, match="policy"):
            connection.ask("GET", "x")


@pytest.mark.covers("V5")
@pytest.mark.parametrize(
    ("refused", "looked_up", "kind"),
    [
        ("permission denied", errors(403, "permission denied"), TokenUnknown),
        ("permission denied", errors(403, "permission denied", "invalid token"), TokenUnknown),
        ("permission denied", http(200, {"data": {}}), VaultRefused),
        ("1 error occurred:\n\t* permission denied\n\n", None, VaultRefused),
    ],
    ids=["gone", "ended since", "lives", "right lacks"],
)
def test_a_token_that_is_refused_in_bare_words_is_gone_unless_it_may_look_itself_up(
    place: VaultPlace, refused: str, looked_up: bytes | None, kind: type[Exception]
) -> None:
    """OpenBao says nothing else of a token that does not live."""
    answers = {"auth/token/lookup-self": looked_up, "x": errors(403, refused)}
    with script(told(**answers)) as vault:
        connection = connect(place, vault.url)
        with pytest.raises(kind, match="permission denied") as caught:
            connection.ask_with(OTHER, "GET", "x")
        assert type(caught.value) is kind
        assert vault.paths() == ["x", *(["auth/token/lookup-self"] if looked_up else [])]
        with pytest.raises(VaultRefused):
            connection.ask_with(NO_TOKEN, "GET", "x")


@pytest.mark.covers("V8")
@pytest.mark.parametrize("content", [None, b"", b"  \n", b"x" * 5_000, b"\xff\xfe"])
@pytest.mark.parametrize("name", ["role_id", "secret_id"])
def test_a_login_that_fails_is_waited_for_and_names_the_setting(
    place: VaultPlace, name: str, content: bytes | None
) -> None:
    file: Path = getattr(place, f"{name}_file")
    good = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with script(told(x=http(200, {}))) as vault:
        connection = connect(place, vault.url)
        with pytest.raises(VaultAway, match=f"SLUICE_VAULT_{name.upper()}_FILE"):
            connection.ask("GET", "x")
        assert vault.heard == []
        file.write_bytes(good)
        assert connection.ask("GET", "x") == {}


@pytest.mark.parametrize(
    ("answer", "says"),
    [(errors(400, "invalid role or secret ID"), "SLUICE_VAULT_SECRET_ID_FILE"), (errors(403, "no"), "SLUICE_VAULT"),
     (errors(503, "Vault is sealed"), "sealed"), (http(200, {}), "no token"), (http(200, {"auth": None}), "no token"),
     (http(200, {"auth": {"client_token": "t", "lease_duration": "x"}}), "no token")],
)  # fmt: skip
def test_a_login_that_vault_refuses_is_waited_for(place: VaultPlace, answer: bytes, says: str) -> None:
    answers = {"auth/approle/login": answer}
    with script(lambda heard: told(**answers, x=http(200, {}))(heard)) as vault:
        connection = connect(place, vault.url)
        with pytest.raises(VaultAway, match=says) as caught:
            connection.ask("GET", "x")
        assert "CANARY" not in str(caught.value)
        answers["auth/approle/login"] = login()
        assert connection.ask("GET", "x") == {}


def test_one_thread_logs_in_and_the_others_use_its_token(place: VaultPlace) -> None:
    with script(told(x=http(200, {}))) as vault, ThreadPoolExecutor(20) as pool:
        connection = connect(place, vault.url)
        list(pool.map(lambda _: connection.ask("GET", "x"), range(100)))
        assert vault.paths().count("auth/approle/login") == 1


@pytest.mark.covers("V1")
@pytest.mark.parametrize("fate", ["renewed", "at its end", "unknown", "away", "nonsense"])
def test_the_service_s_own_token_is_renewed_and_at_its_end_got_anew(place: VaultPlace, fate: str) -> None:
    """Its life is cut to parts of a second here."""
    renewals = {
        "renewed": login("hvs.CANARY-renewed", 3_600), "at its end": login("hvs.CANARY-own", 0.2),
        "unknown": errors(403, "permission denied", "invalid token"), "away": errors(503, "Vault is sealed"),
        "nonsense": http(200, {}),
    }  # fmt: skip
    tokens = iter([login(ttl_s=1), login("hvs.CANARY-second")])

    def answer(heard: Heard) -> bytes:
        if heard[1] == "auth/approle/login":
            return next(tokens)
        return renewals[fate] if heard[1] == "auth/token/renew-self" else http(200, {})

    new = "renewed" if fate == "renewed" else "second"
    with script(answer) as vault:
        connection = connect(place, vault.url)
        until = time.monotonic() + UNTIL_S
        while vault.heard[-1:] == [] or vault.heard[-1][2].get("x-vault-token") != f"hvs.CANARY-{new}":
            assert time.monotonic() < until
            connection.ask("GET", "x")
            time.sleep(0.02)
        assert "auth/token/renew-self" in vault.paths()
        assert vault.paths().count("auth/approle/login") == (1 if fate == "renewed" else 2)


def test_a_token_without_an_end_is_kept(place: VaultPlace) -> None:
    with script(told(x=http(200, {}), **{"auth/approle/login": login(ttl_s=0)})) as vault:
        connection = connect(place, vault.url)
        for _ in range(3):
            connection.ask("GET", "x")
        assert vault.paths() == ["auth/approle/login", "x", "x", "x"]


@pytest.mark.covers("D1")
def test_vault_is_reached_over_tls_by_its_authority_s_file_only(vault: RealVault, tmp_path: Path) -> None:
    with tls(vault.server.address.url, tmp_path) as (url, ca_file):
        place = replace(vault.place(), address=url, ca_file=ca_file)
        assert Connection(place).ask("GET", "auth/token/lookup-self")["data"]["policies"] == ["vault-broker"]
        with pytest.raises(VaultAway, match="SLUICE_VAULT_CA_FILE"):
            Connection(replace(place, ca_file=None)).ask("GET", "auth/token/lookup-self")


def test_every_status_is_a_fault_that_the_services_know(place: VaultPlace) -> None:
    for status in (one.value for one in HTTPStatus if one.value >= 400):
        with script(told(x=errors(status))) as vault, pytest.raises((VaultAway, VaultRefused)):
            connect(place, vault.url).ask("GET", "x")


# The end


@pytest.mark.covers("V4", "V8")
def test_who_logs_out_leaves_no_login_and_only_its_own_ends(vault: RealVault) -> None:
    connection, other = Connection(vault.place()), Connection(vault.place())
    own, others = (one.ask("GET", "auth/token/lookup-self")["data"]["accessor"] for one in (connection, other))
    assert {own, others} <= set(vault.admin.list("auth/token/accessors"))
    connection.log_out()
    left = set(vault.admin.list("auth/token/accessors"))
    assert own not in left
    assert others in left
    with pytest.raises(VaultAway, match="logged out"):
        connection.ask("GET", "auth/token/lookup-self")
    other.log_out()


def test_who_never_asked_has_nothing_to_end(place: VaultPlace) -> None:
    with script(told()) as vault:
        connect(place, vault.url).log_out()
        assert vault.heard == []


@pytest.mark.covers("V8")
@pytest.mark.parametrize("answer", [errors(403, "permission denied", "invalid token"), errors(503, "sealed"), None])
def test_a_login_that_vault_does_not_end_keeps_nobody(place: VaultPlace, answer: bytes | None) -> None:
    with script(told(x=http(200, {}), **{"auth/token/revoke-self": answer})) as vault:
        connection = connect(place, vault.url, timeout_s=0.3)
        connection.ask("GET", "x")
        connection.log_out()
        assert vault.paths()[-1] == "auth/token/revoke-self"


def refused(connection: Connection) -> bool:
    try:
        connection.ask("GET", "y")
    except VaultAway as fault:
        return "logged out" in str(fault)
    return False


@pytest.mark.parametrize("ends", [True, False])
def test_nobody_logs_out_while_a_call_is_under_way(place: VaultPlace, ends: bool) -> None:
    """Neither do others ask meanwhile; and where the call does not end, the login stays."""
    come, go = threading.Event(), threading.Event()

    def answer(heard: Heard) -> bytes | None:
        if heard[1] == "x":
            come.set()
            go.wait(UNTIL_S)
        return told(x=http(200, {}), y=http(200, {}), **{"auth/token/revoke-self": http(200, {})})(heard)

    with script(answer) as vault, ThreadPoolExecutor(2) as pool:
        connection = connect(place, vault.url, timeout_s=UNTIL_S)
        asking = pool.submit(connection.ask, "GET", "x")
        assert come.wait(UNTIL_S)
        leaving = pool.submit(connection.log_out, UNTIL_S if ends else 0.05)
        until = time.monotonic() + UNTIL_S
        while not refused(connection):
            assert time.monotonic() < until
        if not ends:
            leaving.result(UNTIL_S)
        assert "auth/token/revoke-self" not in vault.paths()
        go.set()
        assert asking.result(UNTIL_S) == {}
        leaving.result(UNTIL_S)
        assert ("auth/token/revoke-self" in vault.paths()) is ends
