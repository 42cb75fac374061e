"""A Vault that is waited for (V8): one outage for the whole runner, in which one asks and the others wait for him."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sluice_agent_runner.domain.outage import Outage
from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Time, TokenUnknown, Vault, VaultAway, VaultFault

LOOK_S = 0.5
"""How often who waits looks whether Vault is back."""

T = TypeVar("T")


class PatientVault:
    """Another Vault, with retries until a moment that the caller names.

    Args:
        vault: Asked once each time.
        told: Hears why Vault is away, and None once it is back.
    """

    def __init__(self, vault: Vault, time: Time, measures: Measures, told: Callable[[str | None], None]) -> None:
        self._vault = vault
        self._time = time
        self._measures = measures
        self._told = told
        self._outage = Outage()

    async def open_grant(
        self, queue: str, context: str, sealed: str, *, until_ms: int, waiting: Callable[[], None]
    ) -> Secret:
        """See `ports.Vault.open_grant`; `waiting` is called once if it takes longer."""
        return await self._patiently(
            "open_grant", lambda: self._vault.open_grant(queue, context, sealed), until_ms, waiting
        )

    async def read_key(self, token: Secret, provider: str, *, until_ms: int) -> Secret | None:
        """See `ports.Vault.read_key`."""
        return await self._patiently("read_key", lambda: self._vault.read_key(token, provider), until_ms)

    async def look_up(self, token: Secret) -> int:
        """See `ports.Vault.look_up`. It is asked once, and not at all while another one waits for Vault."""
        wait_ms = self._outage.wait_ms(self._time.monotonic_ms())
        if wait_ms:
            raise VaultAway("Vault is away")
        return await self._once("look_up", lambda: self._vault.look_up(token))

    async def _patiently(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        until_ms: int,
        waiting: Callable[[], None] | None = None,
    ) -> T:
        why = "Vault is away"
        while True:
            wait_ms = self._outage.wait_ms(self._time.monotonic_ms())
            if not wait_ms:
                try:
                    return await self._once(operation, call)
                except VaultAway as error:
                    why = str(error)
            left_ms = until_ms - self._time.now_ms()
            if left_ms <= 0:
                raise VaultAway(f"it was waited for as long as the attempt may: {why}")
            if waiting is not None:
                waiting()
                waiting = None
            await self._time.sleep(min(max(wait_ms, 1) / 1_000, left_ms / 1_000, LOOK_S))

    async def _once(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        begun_ms = self._time.monotonic_ms()
        outcome = "ok"
        try:
            result = await call()
        except VaultAway as error:
            outcome = "unavailable"
            if not self._outage.away:
                self._told(str(error))
            self._outage.failed(self._time.monotonic_ms())
            raise
        except VaultFault as error:
            outcome = "revoked" if isinstance(error, TokenUnknown) else "refused"
            self._back()
            raise
        else:
            self._back()
            return result
        finally:
            self._measures.vault_call(operation, outcome, self._time.monotonic_ms() - begun_ms)

    def _back(self) -> None:
        if self._outage.away:
            self._outage.worked()
            self._told(None)
