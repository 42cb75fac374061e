"""The services' one door to Vault's API: who asks, and what its refusals mean (`faults`).

Nothing of the environment counts: no token, address, proxy or netrc that stands there. hvac is synchronous, so each
thread has a client of its own; the service's own token is shared.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import hvac
import requests
from hvac import exceptions
from pydantic import SecretStr

from sluice_runtime.vault.faults import NothingThere, TokenUnknown, VaultAway, VaultFault, VaultRefused

log = logging.getLogger(__name__)

RENEW_AT = 0.5
"""The share of its own token's life after which a service renews it."""

RENEW_AGAIN_S = 1.0
"""After a renewal that Vault was away for."""

CALLS_END_S = 5.0
"""So long a service that logs out waits for calls that are under way: the time of one, by default."""

SAID_MAX_CHARACTERS = 300
"""Of Vault's own words."""

FILE_MAX_BYTES = 4_096
"""Of a RoleID's or SecretID's file: either has 36 characters."""

NO_TOKEN = SecretStr("")
"""For what Vault answers to everybody. hvac takes None for leave to look for one in files and variables."""

_TOKEN_UNKNOWN = "invalid token"  # noqa: S105 - what stands in a 403 for a token that does not live, and in no other
_BARE_WORDS = ": permission denied"
"""Where a right lacks there is a list: "1 error occurred: * permission denied". OpenBao has bare words for a
token that does not live, and both programs for one without its entity, which opens nothing any more either."""
_ACCESSOR_UNKNOWN = ("invalid accessor", "accessor not found")

Method = Literal["GET", "LIST", "POST", "DELETE"]


@dataclass(frozen=True, slots=True)
class VaultPlace:
    """Where Vault is, and how a service logs in there by AppRole.

    Attributes:
        role_id_file: Read at each login, like the next, so that a new one needs no restart.
        ca_file: Authorities that Vault's certificate is verified by; None: the system's.
        call_timeout_s: For each call.
    """

    address: str
    role_id_file: Path
    secret_id_file: Path
    ca_file: Path | None = None
    call_timeout_s: float = 5.0


@dataclass(slots=True)
class _Own:
    """The service's own token."""

    token: SecretStr = field(default_factory=lambda: NO_TOKEN)
    renew_at_s: float = 0.0
    ends_at_s: float = 0.0


class Connection:
    """Calls of Vault, as the service itself or with another token. Nothing is tried again, each is bounded in time.

    Guarantees: no token is in an error or a log. The service's own token is renewed, and got anew, once for a call,
    when it has ended or Vault does not know it any more. Who stops calls `log_out`, so that no login is left behind.
    """

    def __init__(self, place: VaultPlace) -> None:
        self._place = place
        self._clients = threading.local()
        self._own = _Own()
        self._logging_in = threading.Lock()
        self._idle = threading.Condition()
        self._asking_count = 0
        self._over = False

    def ask(
        self, method: Method, path: str, body: Mapping[str, Any] | None = None, *, wrap_ttl: str | None = None
    ) -> dict[str, Any]:
        """A call as the service itself; returns the answer, empty where there is none.

        Raises:
            VaultAway: Vault can't answer now, or does not let us log in.
            VaultRefused: It refuses; `NothingThere`: there is nothing.
            TokenUnknown: It does not know the token that the call is about.
        """
        with self._asking():
            own = self._own_token()
            try:
                return self._request(own, method, path, body, wrap_ttl)
            except _Forbidden as error:
                if self._works(own):
                    raise VaultRefused(f"{error}; run `sluice vault apply`, or look at the service's policy") from None
            self._log_in(instead_of=own)
            try:
                return self._request(self._own.token, method, path, body, wrap_ttl)
            except _Forbidden as error:
                raise VaultRefused(f"{error}; run `sluice vault apply`, or look at the service's policy") from None

    def ask_with(
        self, token: SecretStr, method: Method, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A call with another token, or with `NO_TOKEN`.

        Raises:
            VaultAway: As for `ask`.
            VaultRefused: As for `ask`.
            TokenUnknown: Vault does not know the token, or its entity is gone.
        """
        try:
            return self._request(token, method, path, body, None)
        except _Forbidden as error:
            bare = token != NO_TOKEN and str(error).endswith(_BARE_WORDS)
            if _TOKEN_UNKNOWN in str(error) or (bare and not self._works(token)):
                raise TokenUnknown(str(error)) from None
            raise VaultRefused(f"{error}; the token lives, and its policies do not allow it") from None

    def log_out(self, wait_s: float = CALLS_END_S) -> None:
        """Ends the service's own login, as well as it can; nobody asks as the service from now on.

        Guarantee: not while a call is under way that is made with it. Where one still is after `wait_s`, or Vault does
        not answer, the login is left to end by itself.
        """
        with self._idle:
            self._over = True
            if not self._idle.wait_for(lambda: self._asking_count == 0, wait_s):
                log.warning("a call of Vault is still under way: the login there is left to end by itself")
                return
        if self._own.token == NO_TOKEN:
            return
        try:
            self._request(self._own.token, "POST", "auth/token/revoke-self", None, None)
        except VaultFault as fault:
            log.warning("the login at Vault is left to end by itself: %s", fault)
        else:
            log.info("logged out of Vault")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._idle:
            if self._over:
                raise VaultAway("the service stops, and has logged out of Vault")
            self._asking_count += 1
        try:
            yield
        finally:
            with self._idle:
                self._asking_count -= 1
                self._idle.notify_all()

    # The service's own token

    def _works(self, token: SecretStr) -> bool:
        """Whether a token may look itself up: then it is a right that lacks, and another login would not help."""
        try:
            self._request(token, "GET", "auth/token/lookup-self", None, None)
        except _Forbidden:
            return False
        return True

    def _own_token(self) -> SecretStr:
        now_s, own = time.monotonic(), self._own
        if now_s >= own.ends_at_s:
            self._log_in(instead_of=own.token)
        elif now_s >= own.renew_at_s and self._logging_in.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._logging_in.release()
        return self._own.token

    def _renew(self) -> None:
        try:
            auth = self._request(self._own.token, "POST", "auth/token/renew-self", None, None)["auth"]
            ttl_s = float(auth["lease_duration"])
        except VaultAway:
            self._own.renew_at_s = time.monotonic() + RENEW_AGAIN_S
        except (VaultFault, KeyError, TypeError, ValueError):
            self._own.ends_at_s = 0.0  # logged in anew by whoever asks next
        else:
            left_s = self._own.ends_at_s - time.monotonic()
            if ttl_s <= left_s + 1:
                self._own.renew_at_s = self._own.ends_at_s = time.monotonic() + ttl_s * RENEW_AT  # at its end: anew
            else:
                self._keep(auth["client_token"], ttl_s)

    def _log_in(self, instead_of: SecretStr) -> None:
        """One thread logs in, the others wait for it.

        Raises:
            VaultAway: Whoever runs Vault can mend it while we wait: it is no fault of what was asked for.
        """
        with self._logging_in:
            if self._own.token != instead_of and time.monotonic() < self._own.ends_at_s:
                return
            path = "auth/approle/login"
            files = {"role_id": self._place.role_id_file, "secret_id": self._place.secret_id_file}
            body = {name: _line_of(name, file) for name, file in files.items()}
            try:
                auth = self._request(NO_TOKEN, "POST", path, body, None)["auth"]
                self._keep(auth["client_token"], float(auth["lease_duration"]))
            except VaultRefused as error:
                raise VaultAway(
                    f"no login: {error}; check SLUICE_VAULT_ROLE_ID_FILE and SLUICE_VAULT_SECRET_ID_FILE"
                ) from None
            except (KeyError, TypeError, ValueError):
                raise VaultAway(f"POST {path}: the answer has no token") from None
            log.info("logged in to Vault at %s", self._place.address)

    def _keep(self, token: str, ttl_s: float) -> None:
        life_s = ttl_s or float("inf")  # a life of 0 has no end
        now_s = time.monotonic()
        self._own = _Own(SecretStr(token), now_s + life_s * RENEW_AT, now_s + life_s)

    # One request

    def _request(
        self, token: SecretStr, method: Method, path: str, body: Mapping[str, Any] | None, wrap_ttl: str | None
    ) -> dict[str, Any]:
        client, what = self._client(), f"{method} {path}"
        client.token = token.get_secret_value()
        try:
            answer = client.adapter.request(
                method.lower(), f"/v1/{path}", json=dict(body or {}) or None, wrap_ttl=wrap_ttl
            )
        except exceptions.VaultError as error:
            raise _fault(error, what) from None
        except requests.Timeout:
            raise VaultAway(f"{what}: no answer in {self._place.call_timeout_s:g} s") from None
        except requests.exceptions.SSLError:
            raise VaultAway(
                f"{what}: no certificate that is trusted here; check SLUICE_VAULT_ADDR and SLUICE_VAULT_CA_FILE"
            ) from None
        except (requests.RequestException, OSError) as error:
            raise VaultAway(f"{what}: Vault can't be reached: {type(error).__name__}") from None
        except (AttributeError, TypeError, ValueError) as error:  # hvac, of an error that has not Vault's form
            raise VaultAway(f"{what}: the answer is not Vault's: {type(error).__name__}") from None
        finally:
            client.token = ""
        if isinstance(answer, dict):
            return answer
        if getattr(answer, "status_code", 0) == 204:
            return {}
        raise VaultAway(f"{what}: the answer {getattr(answer, 'status_code', '')} is not Vault's")  # redirect, a page

    def _client(self) -> Any:
        client = getattr(self._clients, "client", None)
        if client is None:
            session = requests.Session()
            session.trust_env = False  # no proxy, no netrc: a token goes where it was meant to go
            ca_file = self._place.ca_file
            session.verify = str(ca_file) if ca_file else (ssl.get_default_verify_paths().cafile or True)
            client = self._clients.client = hvac.Client(
                url=self._place.address,
                token="",
                timeout=self._place.call_timeout_s,
                verify=session.verify,
                session=session,
                allow_redirects=False,
            )
        return client


class _Forbidden(VaultRefused):
    """403: what it means depends on whose token was asked with."""


def _fault(error: exceptions.VaultError, what: str) -> VaultFault:
    """What an answer of Vault means for the caller."""
    told = error.errors if isinstance(error.errors, list) else [str(error.args[0] if error.args else "")]
    said = "; ".join(" ".join(str(one).split()) for one in told) or type(error).__name__
    text = f"{what}: {said[:SAID_MAX_CHARACTERS]}"
    refusals = exceptions.Forbidden, exceptions.Unauthorized, exceptions.InvalidRequest, exceptions.InvalidPath
    if isinstance(error, refusals) and any(part in said.lower() for part in _ACCESSOR_UNKNOWN):
        return TokenUnknown(text)
    match error:
        case exceptions.Forbidden() | exceptions.Unauthorized():
            return _Forbidden(text)
        case exceptions.InvalidPath():
            return NothingThere(text)
        case exceptions.InvalidRequest():
            return VaultRefused(text)
    return VaultAway(text)  # 429, 5xx, and whatever else a proxy before Vault may say


def _line_of(name: str, file: Path) -> str:
    setting = f"SLUICE_VAULT_{name.upper()}_FILE"
    try:
        with file.open("rb") as opened:
            text = opened.read(FILE_MAX_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise VaultAway(f"no login: the file of {setting} can't be read: {why}; correct it") from None
    if not text or len(text) > FILE_MAX_BYTES:
        raise VaultAway(f"no login: the file of {setting} does not hold a {name}; correct it")
    return text
