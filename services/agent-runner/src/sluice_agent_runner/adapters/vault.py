"""Vault for the runner, in threads of its own: a Vault that hangs keeps no tool and no other work waiting."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import SecretStr

from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.ports import VaultAway, VaultRefused
from sluice_runtime.vault import names
from sluice_runtime.vault.client import Connection, VaultPlace
from sluice_runtime.vault.faults import NothingThere

CALLS_AT_ONCE_MAX_COUNT = 8
"""Calls, and threads, at once. One takes a millisecond or two, so these make thousands a second."""

SECRET_MAX_CHARACTERS = 4_096
"""A token has about a hundred characters, a key fewer: what is longer is something else."""

T = TypeVar("T")


class VaultApi:
    """See `ports.Vault`. Close it when done.

    Args:
        place: Where Vault is, and who this runner is there.
    """

    def __init__(self, place: VaultPlace) -> None:
        self._connection = Connection(place)
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE_MAX_COUNT, thread_name_prefix="vault")

    async def close(self) -> None:
        """Ends the runner's own login, unless Vault hangs: then it ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._connection.log_out)

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
        body = {"ciphertext": sealed, "context": base64.b64encode(context.encode()).decode()}
        answer = self._connection.ask("POST", path, body)
        try:
            token = base64.b64decode(answer["data"]["plaintext"], validate=True).decode("ascii")
        except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
            raise VaultRefused(f"{path}: what was sealed is no token") from None
        return _lawful(token, f"{path}: what was sealed is no token")

    def _read_key(self, token: Secret, provider: str) -> Secret | None:
        path = f"{names.API_KEYS_PATH}/{provider}"
        try:
            answer = self._connection.ask_with(SecretStr(token.reveal()), "GET", path)
        except NothingThere:
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
        answer = self._connection.ask_with(SecretStr(token.reveal()), "GET", path)
        try:
            return int(answer["data"]["ttl"])
        except (KeyError, TypeError, ValueError):
            raise VaultAway(f"{path}: the answer has no ttl") from None


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
