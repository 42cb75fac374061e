"""Vault by hvac, in threads of its own: a Vault that hangs keeps no tool and no other work of the runner waiting."""

from __future__ import annotations

import asyncio
import base64
import binascii
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hvac
import requests
from hvac import exceptions

from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.ports import TokenRevoked, VaultError, VaultRefused, VaultUnavailable
from sluice_runtime.vault import names

CALLS_AT_ONCE_MAX_COUNT = 8
"""Calls, and threads, at once. One takes a millisecond or two, so these make thousands a second."""

SECRET_MAX_CHARACTERS = 4_096
"""A token has about a hundred characters, a key fewer: what is longer is something else."""

FILE_MAX_BYTES = 4_096

RENEWED_AFTER = 2 / 3
"""Of its life: then this runner logs in anew, long before Vault forgets it."""

NO_MORE = "invalid token"
"""What stands in a 403 for a token that does not live, and not in one that its policies earn it."""

SAID_MAX_CHARACTERS = 300
"""Of Vault's own words."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Where Vault is, and who this runner is there.

    Attributes:
        role_id_file: AppRole's; read at each login, like the next, so that a new one needs no restart.
        ca_file: The authority of Vault's certificate; None: the usual ones.
        api_keys_path: Below it, by its provider's name, stands each key: `<mount>/data/<folder>` of a KV v2 engine.
        timeout_s: For each call.
    """

    address: str
    role_id_file: Path
    secret_id_file: Path
    ca_file: Path | None = None
    api_keys_path: str = "secret/data/api-keys"
    timeout_s: float = 5.0


class HvacVault:
    """See `ports.Vault`. It reads no variable, proxy or file of Vault's own tools. Close it when done."""

    def __init__(self, access: VaultAccess) -> None:
        self._access = access
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE_MAX_COUNT, thread_name_prefix="vault")
        self._local = threading.local()
        self._logging_in = threading.Lock()
        self._own: tuple[Secret, float] | None = None

    def close(self) -> None:
        """Waits for nothing: a call that hangs ends by its own time."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def open_grant(self, queue: str, context: str, sealed: str) -> Secret:
        """See `ports.Vault.open_grant`."""
        return await self._aside(lambda: self._open_grant(queue, context, sealed))

    async def read_key(self, token: Secret, provider: str) -> Secret | None:
        """See `ports.Vault.read_key`."""
        return await self._aside(lambda: self._read_key(token, provider))

    async def look_up(self, token: Secret) -> int:
        """See `ports.Vault.look_up`."""
        return await self._aside(lambda: self._look_up(token))

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # In threads

    def _open_grant(self, queue: str, context: str, sealed: str) -> Secret:
        try:
            path = f"{names.TRANSIT_MOUNT}/decrypt/{names.queue_name(queue)}"
        except ValueError as error:
            raise VaultRefused(str(error)) from None
        arguments = {"ciphertext": sealed, "context": base64.b64encode(context.encode()).decode()}

        def decrypt(anew: bool) -> Any:
            return self._call(path, lambda: self._client(self._login(anew=anew)).write_data(path, data=arguments))

        try:
            answer = decrypt(anew=False)
        except _Forbidden:  # perhaps Vault has forgotten this runner's own token
            try:
                answer = decrypt(anew=True)
            except _Forbidden as error:
                raise VaultRefused(f"{error}; this runner's role may not open grants of queue {queue}") from None
        try:
            token = base64.b64decode(answer["data"]["plaintext"], validate=True).decode("ascii")
        except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
            raise VaultRefused(f"{path}: what was sealed is no token") from None
        return _lawful(token, f"{path}: what was sealed is no token")

    def _read_key(self, token: Secret, provider: str) -> Secret | None:
        path = f"{self._access.api_keys_path.strip('/')}/{provider}"
        try:
            answer = self._call(path, lambda: self._client(token).read(path))
        except _Forbidden as error:
            raise error.of_agent() from None
        if answer is None:
            return None
        try:
            key = answer["data"]["data"][names.API_KEY_FIELD]
        except (KeyError, TypeError):
            raise VaultRefused(f"{path} has no field {names.API_KEY_FIELD!r}; write the key there") from None
        return _lawful(
            key.strip() if isinstance(key, str) else "", f"{path}: {names.API_KEY_FIELD} does not hold one key"
        )

    def _look_up(self, token: Secret) -> int:
        path = "auth/token/lookup-self"
        try:
            answer = self._call(path, lambda: self._client(token).read(path))
        except _Forbidden as error:
            raise error.of_agent() from None
        try:
            return int(answer["data"]["ttl"])
        except (KeyError, TypeError, ValueError):
            raise VaultUnavailable(f"{path}: the answer has no ttl") from None

    def _login(self, *, anew: bool) -> Secret:
        """The runner's own token. One thread logs in, the others wait for it."""
        before = self._own
        with self._logging_in:
            own = self._own
            if own is not None and time.monotonic() < own[1] and not (anew and own is before):
                return own[0]
            path = "auth/approle/login"
            names = {"role_id": self._access.role_id_file, "secret_id": self._access.secret_id_file}
            values = {name: _file_of(name, file) for name, file in names.items()}
            try:
                answer = self._call(path, lambda: self._client(None).write_data(path, data=values))
                token, life_s = Secret(answer["auth"]["client_token"]), int(answer["auth"]["lease_duration"])
            except (VaultRefused, _Forbidden) as error:
                # Not the grant's fault, and not the attempt's: whoever runs Vault can mend it while the attempt waits.
                raise VaultUnavailable(
                    f"the runner can't log in: {error}; check SLUICE_VAULT_ROLE_ID_FILE and SLUICE_VAULT_SECRET_ID_FILE"
                ) from None
            except (KeyError, TypeError, ValueError):
                raise VaultUnavailable(f"{path}: the answer has no token") from None
            # A life of 0 has no end.
            self._own = token, time.monotonic() + (life_s * RENEWED_AFTER if life_s else float("inf"))
            return token

    def _client(self, token: Secret | None) -> Any:
        """A client for one call; never without a token, for then hvac looks for one in files and variables."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # no proxy, no netrc: the token goes where it was meant to go
            session.verify = str(self._access.ca_file) if self._access.ca_file is not None else True
        return hvac.Client(
            url=self._access.address,
            token=token.reveal() if token is not None else "",
            session=session,
            verify=session.verify,
            timeout=self._access.timeout_s,
            allow_redirects=False,
        )

    def _call(self, path: str, call: Callable[[], Any]) -> Any:
        """What Vault answered, None for nothing there, or its error by what the caller does next."""
        try:
            answer = call()
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise _Forbidden(_said(path, error)) from None
        except exceptions.InvalidPath as error:
            raise VaultRefused(_said(path, error)) from None
        except exceptions.InvalidRequest as error:
            raise VaultRefused(_said(path, error)) from None
        except exceptions.VaultError as error:  # 429, 5xx, and whatever a proxy before Vault may say
            raise VaultUnavailable(_said(path, error)) from None
        except requests.Timeout:
            raise VaultUnavailable(f"{path}: no answer in {self._access.timeout_s:g} s") from None
        except (requests.RequestException, OSError) as error:
            raise VaultUnavailable(f"{path}: Vault can't be reached: {type(error).__name__}") from None
        except (AttributeError, TypeError, ValueError) as error:  # hvac, of an error that has not Vault's form
            raise VaultUnavailable(f"{path}: the answer is not Vault's: {type(error).__name__}") from None
        if answer is not None and not isinstance(answer, dict):  # a redirect, or a page that is no JSON
            raise VaultUnavailable(f"{path}: the answer {getattr(answer, 'status_code', '')} is not Vault's")
        return answer


class _Forbidden(VaultError):
    """403: what it means depends on whose token it was, and on whether Vault still knows it."""

    def of_agent(self) -> VaultError:
        """What it means for an agent's token. Vault names one that was revoked, or whose time is over."""
        if NO_MORE in str(self):
            return TokenRevoked(f"Vault knows the attempt's token no more: {self}")
        return VaultRefused(f"{self}; the token lives, and its policy does not allow it")


def _said(path: str, error: exceptions.VaultError) -> str:
    told = error.errors or [str(error.args[0] or type(error).__name__)]
    said = "; ".join(" ".join(str(one).split()) for one in told)[:SAID_MAX_CHARACTERS]
    return f"{path}: {said}"


def _file_of(name: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            text = opened.read(FILE_MAX_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise VaultUnavailable(f"the file of SLUICE_VAULT_{name.upper()}_FILE can't be read: {why}") from None
    if not text or len(text) > FILE_MAX_BYTES:
        raise VaultUnavailable(f"the file of SLUICE_VAULT_{name.upper()}_FILE does not hold a {name}")
    return text


def _lawful(secret: str, otherwise: str) -> Secret:
    """A secret that can stand in a header."""
    if (
        not 4 <= len(secret) <= SECRET_MAX_CHARACTERS
        or not secret.isascii()
        or not secret.isprintable()
        or " " in secret
    ):
        raise VaultRefused(otherwise)
    return Secret(secret)
