"""The credential of one attempt: its token, the keys that it reads, and the watch over its life."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from urllib.parse import quote

from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.ports import ModelRefused, NoKey, Time, TokenUnknown, VaultAway, VaultRefused
from sluice_agent_runner.supervision.patience import PatientVault

log = logging.getLogger(__name__)


class TokenExpired(Exception):
    """The token's time is over, as far as is known, and Vault can't be asked: end the attempt."""


class OwnSecrets:
    """What an attempt itself knows to be secret, taken out of all that it keeps or says.

    Args:
        redact: Takes out what the runner knows, and what has the form of a secret.
    """

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._forms: tuple[str, ...] = ()

    def add(self, secret: Secret) -> None:
        """From now on this is a secret, also as JSON and as URLs would write it."""
        value = secret.reveal()
        forms = {value, json.dumps(value)[1:-1], quote(value, ""), *self._forms}
        self._forms = tuple(sorted(forms, key=len, reverse=True))  # a secret may begin like another one

    def redact(self, text: str) -> str:
        """The text without secrets; the very same object where there are none."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, "[redacted:secret]")
        return self._redact(text)


class Credential:
    """An opened grant. It is in this process's memory, and nowhere else, until it is forgotten.

    Args:
        token: The attempt's own.
        expires_at_ms: When it ends, unless it is renewed.
        deadline: Until when a key is waited for, if the token lives so long.
        secrets: Learns of the keys that are read.
    """

    def __init__(
        self,
        vault: PatientVault,
        time: Time,
        token: Secret,
        expires_at_ms: int,
        deadline: Callable[[], int],
        secrets: OwnSecrets,
    ) -> None:
        self._vault = vault
        self._time = time
        self._token: Secret | None = token
        self._expires_at_ms = expires_at_ms
        self._deadline = deadline
        self._secrets = secrets
        self._keys: dict[str, Secret | None] = {}

    def forget(self) -> None:
        """Lets go of the token and of all keys."""
        self._token = None
        self._keys.clear()

    async def key(self, provider: str) -> Secret | NoKey:
        """See `ports.Caller.key`; read once, and kept for the attempt."""
        if provider not in self._keys:
            self._keys[provider] = await self._read(provider)
        found = self._keys[provider]
        return NoKey(f"Vault has no key of provider {provider} for agents") if found is None else found

    async def key_changed(self, provider: str) -> bool:
        """See `ports.Caller.key_changed`; of a provider that never asked for one, Vault is not asked."""
        if provider not in self._keys:
            return False
        before = self._keys[provider]
        self._keys[provider] = found = await self._read(provider)
        return found is not None and (before is None or found.reveal() != before.reveal())

    async def _read(self, provider: str) -> Secret | None:
        try:
            until_ms = min(self._expires_at_ms, self._deadline())
            found = await self._vault.read_key(self._alive(), provider, until_ms=until_ms)
        except VaultRefused as error:
            await self._check_rights(error)
            raise ModelRefused("model_unauthorized", f"the provider's key can't be read from Vault: {error}") from None
        if found is not None:
            self._secrets.add(found)
        return found

    async def _check_rights(self, refusal: VaultRefused) -> None:
        """Tells a token that may do nothing any more from one that lacks this right.

        The entity of its pipeline is gone then, and with it all policies: the token is as good as revoked, and the
        broker, which notices within a minute, has others made (decision 0007).

        Raises:
            TokenUnknown: It may not even look itself up.
            VaultAway: It can't be told now.
        """
        try:
            await self._vault.look_up(self._alive())
        except VaultRefused:
            raise TokenUnknown(f"no policy of the attempt's token applies any more: {refusal}") from None

    async def watch(self, interval_s: float, asleep: Callable[[], bool]) -> None:
        """Looks every so often whether the token lives; returns never.

        Args:
            interval_s: Between two looks.
            asleep: Whether the attempt waits for a person: it calls nobody then, and its token may be taken meanwhile.

        Raises:
            TokenUnknown: Vault says that it does not.
            TokenExpired: Its time is over and Vault is away.
        """
        looked = False
        while True:
            await self._time.sleep(interval_s)
            if asleep():
                continue
            try:
                left_s = await self._vault.look_up(self._alive())
            except VaultRefused as error:
                if looked:  # it could before: a Vault that says no more than "permission denied" means this
                    raise TokenUnknown(str(error)) from None
                log.warning("the life of an attempt's token is not watched: %s; let its policy read that path", error)
                await asyncio.Event().wait()
            except VaultAway:
                # The spawner hears of it too, and goes first: its word costs the task no retry.
                if self._time.now_ms() >= self._expires_at_ms + interval_s * 1_000:
                    raise TokenExpired(
                        "the attempt's token has expired, and Vault can't be asked for another"
                    ) from None
            else:
                looked = True
                if left_s:  # 0: it has no end
                    self._expires_at_ms = self._time.now_ms() + left_s * 1_000

    def _alive(self) -> Secret:
        if self._token is None:
            raise TokenUnknown("the attempt has ended")
        return self._token
