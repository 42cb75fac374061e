"""The one door to a Vault's API: where it is, who asks, and what its refusals mean here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized, VaultError

from sluice_localstack.errors import LoginRefused, NotReady, ProvisioningFailed, SettingInvalid

CALL_TIMEOUT_S = 20.0
HEALTH_TIMEOUT_S = 2.0
UPGRADE_WAIT_S = 10.0
"""A kv-v2 mount upgrades itself just after it was made, and refuses requests meanwhile."""
POLL_S = 0.05

Health = Literal["active", "standby", "sealed", "uninitialised", "away"]
_HEALTH: Mapping[int, Health] = {200: "active", 429: "standby", 473: "standby", 501: "uninitialised", 503: "sealed"}
"""What `sys/health` answers; a standby passes requests on."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """Where a Vault is, and by which authorities its certificate is verified: PEM file, or None for the system's."""

    url: str
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class AppRole:
    """The files by which somebody logs in."""

    role_id_file: Path
    secret_id_file: Path


@dataclass(frozen=True, slots=True)
class VaultLogin:
    """Who asks: a token, or an AppRole's files. What is secret is left out of `repr`, so that no log can show it."""

    address: VaultAddress
    token: str | None = field(default=None, repr=False)
    approle: AppRole | None = None


class VaultClient:
    """Requests to a Vault. Nothing of the environment counts: no token, address or proxy that stands there.

    All methods raise `LoginRefused` if the Vault refuses who asks, `NotReady` if it does not answer or is sealed, and
    `ProvisioningFailed` if it refuses what is asked.
    """

    def __init__(self, login: VaultLogin) -> None:
        self.address = login.address
        self._login = login
        session = requests.Session()
        session.trust_env = False
        session.verify = login.address.ca_file or _system_authorities()
        self._client = hvac.Client(
            url=login.address.url,
            token=login.token or "",  # None would have hvac look for one in the environment and the home directory
            timeout=CALL_TIMEOUT_S,
            session=session,  # whose `verify` counts, not the client's
        )
        self._logged_in = login.token is not None

    # -- without a token

    def health(self) -> Health:
        """What state it is in. Never raises, quick."""
        url = f"{self.address.url.rstrip('/')}/v1/sys/health"
        try:
            answer = self._client.session.get(url, timeout=HEALTH_TIMEOUT_S)
        except requests.RequestException:
            return "away"
        return _HEALTH.get(answer.status_code, "away")

    def initialise(self) -> tuple[str, str]:
        """Have it make its keys: one share. Returns the unseal key in base64 and the root token; they stand nowhere."""
        found = self._call(lambda: self._client.sys.initialize(secret_shares=1, secret_threshold=1), "sys/init")
        return str(found["keys_base64"][0]), str(found["root_token"])

    def unseal(self, key: str) -> None:
        """Give it the unseal key."""
        self._call(lambda: self._client.sys.submit_unseal_key(key), "sys/unseal")

    # -- with one

    def read(self, path: str) -> dict[str, Any] | None:
        """What a path answers; None if there is nothing."""
        return self._asked(path, lambda: self._client.read(path))

    def list(self, path: str) -> list[str]:
        """The names below a path."""
        found = self._asked(path, lambda: self._client.list(path))
        return [] if found is None else [str(name) for name in found["data"]["keys"]]

    def write(self, path: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write to a path, and return what it answers; empty if nothing."""
        found = self._asked(path, lambda: self._client.write_data(path, data=dict(data or {})))
        return found if isinstance(found, dict) else {}

    def delete(self, path: str) -> None:
        """Delete what is at a path; without effect if there is nothing."""
        self._asked(path, lambda: self._client.delete(path))

    def seal(self) -> None:
        """Seal it: it answers nobody until it is unsealed."""
        self._asked("sys/seal", self._client.sys.seal)

    def _asked(self, path: str, ask: Callable[[], Result]) -> Result | None:
        self._ensure_login()
        deadline = time.monotonic() + UPGRADE_WAIT_S
        while True:
            try:
                return self._call(ask, path)
            except _Upgrading:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _ensure_login(self) -> None:
        if self._logged_in:
            return
        approle = self._login.approle
        if approle is None:
            raise SettingInvalid(
                f"nothing says who asks the Vault at {self.address.url}; set VAULT_TOKEN_FILE, or VAULT_ROLE_ID_FILE "
                "and VAULT_SECRET_ID_FILE"
            )
        role_id, secret_id = read_secret(approle.role_id_file), read_secret(approle.secret_id_file)
        self._call(lambda: self._client.auth.approle.login(role_id, secret_id), "auth/approle/login")
        self._logged_in = True

    def _call(self, ask: Callable[[], Result], path: str) -> Result:
        where = f"Vault at {self.address.url}"
        try:
            return ask()
        except InvalidPath:
            return None  # type: ignore[return-value]
        except (Forbidden, Unauthorized) as error:
            raise LoginRefused(f"{where} refuses {path}: {_text(error)}; ask with a token that may do it") from None
        except InvalidRequest as error:
            text = _text(error)
            if "Upgrading from non-versioned" in text or "preflight capability check" in text:
                raise _Upgrading(f"{where} still prepares {path}: {text}; try again") from None
            kind = LoginRefused if path == "auth/approle/login" else ProvisioningFailed
            raise kind(f"{where} refuses {path}: {text}") from None
        except VaultError as error:
            raise NotReady(f"{where} can't answer {path}: {_text(error)}; unseal it, or try again") from None
        except requests.exceptions.SSLError as error:
            raise NotReady(
                f"{where} has no certificate that is trusted here ({_text(error)}); set VAULT_CACERT"
            ) from None
        except requests.RequestException as error:
            raise NotReady(
                f"{where} does not answer ({type(error).__name__}); correct VAULT_ADDR, or start it"
            ) from None


class _Upgrading(ProvisioningFailed):
    """A kv-v2 mount is not ready yet."""


def read_secret(file: Path) -> str:
    """The one line of a secret's file.

    Raises:
        SettingInvalid: It can't be read, or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingInvalid(f"{file} cannot be read: {why}; correct the path") from None
    if not text:
        raise SettingInvalid(f"{file} is empty; it holds one line")
    return text


def _system_authorities() -> bool | str:
    """The system's own list where OpenSSL knows one, as other programs here; else the one that came with requests."""
    import ssl

    return ssl.get_default_verify_paths().cafile or True


def _text(error: Exception) -> str:
    return "; ".join(str(error).split("\n"))[:500]
