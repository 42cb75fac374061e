"""The one door to Vault's API: who asks, and what its refusals mean here.

Nothing of the environment counts: no token, address or proxy that stands there. hvac is synchronous, so each thread has
a client of its own; the broker's own token is shared.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import hvac
import requests
from hvac import exceptions
from pydantic import SecretStr

from sluice_vault_broker.ports import TokenUnknown, VaultAway, VaultFault, VaultRefused

log = logging.getLogger(__name__)

RENEW_AT = 0.5
"""The share of its own token's life after which the broker renews it."""

DETAIL_MAX_CHARACTERS = 300
_UNKNOWN = ("invalid accessor", "accessor not found", "invalid token", "bad token", "token not found", "invalid lease")
"""What Vault says, with 400 or 403, of a token that it does not know."""

Method = Literal["GET", "LIST", "POST", "DELETE"]


@dataclass(frozen=True, slots=True)
class VaultPlace:
    """Where Vault is, and how the broker logs in.

    Attributes:
        ca_file: Authorities that its certificate is verified by; None: the system's.
        call_timeout_s: For each call.
    """

    address: str
    role_id_file: Path
    secret_id_file: Path
    ca_file: Path | None = None
    call_timeout_s: float = 5.0


@dataclass(slots=True)
class _Own:
    """The broker's own token."""

    token: SecretStr = field(default_factory=lambda: SecretStr(""))
    renew_at_s: float = 0.0
    ends_at_s: float = 0.0


class Connection:
    """Calls of Vault, as the broker or with another token.

    Guarantees: no token is in an error or a log. The broker's own token is renewed, and got anew, once for a call, when
    it has ended or Vault does not know it any more.
    """

    def __init__(self, place: VaultPlace) -> None:
        self._place = place
        self._clients = threading.local()
        self._own = _Own()
        self._logging_in = threading.Lock()

    def ask(self, method: Method, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A call as the broker itself.

        Raises:
            VaultAway: Vault can't answer now.
            VaultRefused: It refuses.
            TokenUnknown: It does not know the token that the call is about.
        """
        own = self._own_token()
        try:
            return self.ask_with(own, method, path, body, **more)
        except _Denied:
            if self._works(own):
                raise
            self._log_in(instead_of=own)
            return self.ask_with(self._own.token, method, path, body, **more)

    def ask_with(
        self, token: SecretStr, method: Method, path: str, body: Mapping[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """A call with another token, or with none (an empty one).

        Raises:
            VaultFault: As for `ask`; `VaultRefused` also where the token has ended.
        """
        client = self._client()
        client.token = token.get_secret_value()
        try:
            answer = client.adapter.request(method.lower(), f"/v1/{path}", json=dict(body or {}) or None, **more)
        except Exception as error:
            raise _fault(error, method, path) from None
        finally:
            client.token = ""
        return answer if isinstance(answer, dict) else {}

    # The broker's own token

    def _works(self, token: SecretStr) -> bool:
        """Whether the broker's token is one: then it is a right that lacks, and another login would not help."""
        try:
            self.ask_with(token, "GET", "auth/token/lookup-self")
        except VaultRefused:
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
            answer = self.ask_with(self._own.token, "POST", "auth/token/renew-self")
        except VaultAway:
            self._own.renew_at_s = time.monotonic() + 1.0
        except VaultFault:
            self._own.ends_at_s = 0.0  # logged in anew by whoever asks next
        else:
            left_s = self._own.ends_at_s - time.monotonic()
            ttl_s = float(answer["auth"]["lease_duration"])
            if ttl_s <= left_s + 1:
                self._own.renew_at_s = self._own.ends_at_s = time.monotonic() + ttl_s * RENEW_AT  # at its end: anew
            else:
                self._keep(answer["auth"])

    def _log_in(self, instead_of: SecretStr) -> None:
        with self._logging_in:
            if self._own.token != instead_of and time.monotonic() < self._own.ends_at_s:
                return  # another thread did
            try:
                role_id = self._place.role_id_file.read_text(encoding="utf-8").strip()
                secret_id = self._place.secret_id_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise VaultRefused(f"the files to log in with can't be read: {error}; correct them") from None
            body = {"role_id": role_id, "secret_id": secret_id}
            self._keep(self.ask_with(SecretStr(""), "POST", "auth/approle/login", body)["auth"])
            log.info("logged in to Vault at %s", self._place.address)

    def _keep(self, auth: Mapping[str, Any]) -> None:
        now_s, ttl_s = time.monotonic(), float(auth["lease_duration"])
        self._own = _Own(SecretStr(auth["client_token"]), now_s + ttl_s * RENEW_AT, now_s + ttl_s)

    def _client(self) -> hvac.Client:
        client = getattr(self._clients, "client", None)
        if client is None:
            session = requests.Session()
            session.trust_env = False
            verify: bool | str = (
                str(self._place.ca_file) if self._place.ca_file else (ssl.get_default_verify_paths().cafile or True)
            )
            session.verify = verify
            client = hvac.Client(
                url=self._place.address,
                token="",  # None would have hvac look for one in the environment and the home directory
                timeout=self._place.call_timeout_s,
                verify=verify,
                session=session,
            )
            client.session.trust_env = False
            self._clients.client = client
        return client


class _Denied(VaultRefused):
    """Vault refuses who asks: the token may have ended."""


def _fault(error: Exception, method: str, path: str) -> VaultFault:
    """What an error means for the caller. Texts of Vault name paths and reasons, never a token."""
    text = f"{method} {path}: {'; '.join(str(error).splitlines())[:DETAIL_MAX_CHARACTERS]}"
    lowered = text.lower()
    match error:
        case (
            exceptions.Forbidden() | exceptions.Unauthorized() | exceptions.InvalidRequest() | exceptions.InvalidPath()
        ):
            about_one = path.endswith("-accessor")
            if about_one and any(part in lowered for part in _UNKNOWN):
                return TokenUnknown(text)
            if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
                return _Denied(f"{text}; run `sluice vault apply`, or look at the broker's policy")
            return VaultRefused(text)
        case exceptions.UnsupportedOperation() | exceptions.ParamValidationError():
            return VaultRefused(text)
        case exceptions.VaultError():
            return VaultAway(text)
        case requests.RequestException():
            return VaultAway(f"{method} {path}: {type(error).__name__}")
        case _:
            raise error
