"""Vault in memory: it passes the suite of the real one (tests/integration/agent_runner/test_vault.py)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count

from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.ports import TokenUnknown, VaultAway, VaultFault, VaultRefused


@dataclass
class VaultDouble:
    """What stands in it, and what was asked of it.

    Attributes:
        failing: Raised while it is set, by calls that begin with `failing_at`.
        hanging: Every call waits for it.
        bare: Tokens whose entity is gone: they live, and may do nothing.
    """

    grants: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    living: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    failing: VaultFault | None = None
    failing_at: str = ""
    hanging: asyncio.Event | None = None
    bare: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    def grant(self, queue: str, context: str, life_s: int = 3_600) -> tuple[str, str]:
        """Seals a new token; returns the ciphertext and the token, which is its own accessor here."""
        number = next(self.numbers)
        token, sealed = f"hvs.canary{number:024d}", f"vault:v1:{number:040d}"
        self.living[token] = life_s
        self.grants[sealed] = (queue, context, token)
        return sealed, token

    def grant_without_entity(self, queue: str, context: str) -> tuple[str, str]:
        sealed, token = self.grant(queue, context)
        self.bare.add(token)
        return sealed, token

    def revoke(self, token: str) -> None:
        del self.living[token]

    async def open_grant(self, queue: str, context: str, sealed: str) -> Secret:
        await self._hear(f"open_grant {queue} {context}")
        found = self.grants.get(sealed)
        if found is None or found[:2] != (queue, context):
            raise VaultRefused("transit/decrypt: cipher: message authentication failed")
        return Secret(found[2])

    async def read_key(self, token: Secret, provider: str) -> Secret | None:
        await self._hear(f"read_key {provider}")
        self._check(token)
        key = self.keys.get(provider)
        if key == "":
            raise VaultRefused(f"api-keys/{provider}: api_key does not hold one key")
        return None if key is None else Secret(key)

    async def look_up(self, token: Secret) -> int:
        await self._hear("look_up")
        self._check(token)
        return self.living[token.reveal()]

    async def _hear(self, what: str) -> None:
        self.asked.append(what)
        await asyncio.sleep(0)
        if self.hanging is not None:
            await self.hanging.wait()
        if self.failing is not None and what.startswith(self.failing_at):
            raise self.failing

    def _check(self, token: Secret) -> None:
        if token.reveal() not in self.living:
            raise TokenUnknown("permission denied, invalid token")
        if token.reveal() in self.bare:
            raise VaultRefused("permission denied")


AWAY = VaultAway("transit/decrypt: Vault is sealed")
