"""How many living tokens a vault-broker renews in time, beside bare renewals by hvac."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bare_vault import QUEUE, BareGrant, BareVaults
from benchmarks.commands import Gate
from benchmarks.installation import PARTITIONS, Installation
from benchmarks.results import Result, result
from sluice_client.wiring import vault_settings
from sluice_contracts.messages.token import TokenRequest
from sluice_runtime.vault import names
from sluice_vault_broker.domain.policy import BrokerPolicy
from sluice_vault_broker.settings import BrokerSettings

REAL_INTERVAL_S = BrokerPolicy().renewal_interval_ms / 1_000
THREADS = int(BrokerSettings.model_fields["vault_threads"].default)
LAG_MAX_S = 1.0
"""A renewal that comes so much later than the latest moment for it lags."""

SPREAD = 1.1
"""Renewals are up to a tenth of the interval sooner or later."""

GROWTH = 1.2
"""From one number of tokens to the next one."""

GRANTS_AT_ONCE = 100
GRANTS_TIMEOUT_S = 120


@dataclass
class _Lives:
    """When each token was granted or last renewed, and by how much the latest renewal was too late."""

    interval_s: float
    last_s: dict[str, float] = field(default_factory=dict)
    renewals: int = 0
    lag_s: float = 0.0

    def watch(self, topic: str, kind: str, pipeline_id: str, message: Any) -> None:
        now_s = time.monotonic()
        if kind in ("token.granted", "token.renewed"):
            accessor = _accessor(message)
            if kind == "token.renewed":
                self.renewals += 1
                self._late(accessor, now_s)
            self.last_s[accessor] = now_s
        elif kind != "token.revoked":
            raise RuntimeError(f"pipeline {pipeline_id}: {kind}; every token of this measure is granted and renewed")

    def _late(self, accessor: str, now_s: float) -> None:
        self.lag_s = max(self.lag_s, now_s - self.last_s[accessor] - SPREAD * self.interval_s)

    async def observe(self, seconds: float) -> tuple[float, float]:
        """The renewals per second from now on, and the greatest lag, of those that are still missing, too."""
        self.renewals, self.lag_s = 0, 0.0
        begun = time.monotonic()
        await asyncio.sleep(seconds)
        now_s = time.monotonic()
        for accessor in self.last_s:
            self._late(accessor, now_s)
        return self.renewals / (now_s - begun), self.lag_s


async def tokens_live_max(installation: Installation, *, quick: bool) -> list[Result]:
    """The most tokens of which no renewal lags; half are pipelines' own, half their agents'."""
    interval_s, count, most = (2, 100, 150) if quick else (5, 200, 20_000)
    prefix = f"benchtokens-{uuid.uuid4()}."
    await asyncio.to_thread(installation.create_installation_topics, prefix, PARTITIONS)
    bare_per_s = await _bare_per_s(installation, seconds=2 if quick else 10)  # by then the topics have their leaders
    lives = _Lives(interval_s)
    steps: list[str] = []
    reached, reached_per_s = 0, 0.0
    async with (
        Gate(installation, ("token.events",), lives.watch, prefix) as gate,
        _broker(installation, prefix, interval_s),
    ):
        while count <= most:
            await _grow(gate, lives, count)
            await asyncio.sleep(2 * interval_s)  # what waited while they were granted is over by then
            per_s, lag_s = await lives.observe(2 * interval_s)
            steps.append(f"{len(lives.last_s)} tokens {per_s:.0f}/s {max(0, lag_s):.2f} s")
            if lag_s > LAG_MAX_S:
                break
            reached, reached_per_s = len(lives.last_s), per_s
            count = int(count * GROWTH)
    return [
        result("tokens_live_max", reached / interval_s * REAL_INTERVAL_S, "tokens",
               against=f"bare renewals by hvac in {THREADS} threads", against_value=bare_per_s * REAL_INTERVAL_S,
               note=f"by the rate: {reached} tokens renewed every {interval_s} s, which is as many a second as at the "
               f"real interval of {REAL_INTERVAL_S / 60:.0f} minutes; that many were not held at once; no renewal came "
               f"more than {LAG_MAX_S} s after the latest moment for it; half are pipelines' own, whose logins are "
               f"renewed, too: three calls of Vault for two tokens, here and bare ({bare_per_s:.0f} tokens/s); "
               f"{'; '.join(steps)}; measured {reached_per_s:.0f} tokens/s")
    ]  # fmt: skip


async def _grow(gate: Gate, lives: _Lives, count: int) -> None:
    async with asyncio.timeout(GRANTS_TIMEOUT_S):
        while (missing := count - len(lives.last_s)) > 0:
            wanted = len(lives.last_s) + 2 * min(GRANTS_AT_ONCE, (missing + 1) // 2)
            for _ in range((wanted - len(lives.last_s)) // 2):
                request = TokenRequest(agent_id="a0", attempt=1, queue=QUEUE)
                await gate.say("token.commands", str(uuid.uuid4()), request)
            while len(lives.last_s) < wanted:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def _broker(installation: Installation, prefix: str, interval_s: int) -> AsyncIterator[None]:
    """Another vault-broker, with topics of its own and short intervals."""
    own = {
        "kafka_credentials_file": str(installation.credentials("admin")), "topic_prefix": prefix,
        "queues": QUEUE, "renewal_interval_s": str(interval_s), "log_level": "WARNING",
        **vault_settings(installation.stack, names.BROKER),
    }  # fmt: skip
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluice_vault_broker",
        env=kept | {f"SLUICE_{name.upper()}": value for name, value in own.items() if value},
    )  # fmt: skip
    try:
        yield
        if process.returncode is not None:
            raise RuntimeError(f"the vault-broker ended with {process.returncode} while it was measured")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _bare_per_s(installation: Installation, seconds: float) -> float:
    """Tokens renewed per second, with as many threads as the broker has."""
    vaults, loop = BareVaults(installation), asyncio.get_running_loop()

    def minted(_: int) -> tuple[str, BareGrant]:
        pipeline_id = str(uuid.uuid4())
        return pipeline_id, vaults.mine.mint(pipeline_id)

    def renewing(found: tuple[str, BareGrant], until_s: float) -> int:
        count = 0
        while time.monotonic() < until_s:
            for accessor in (found[1].root, found[1].top, found[1].agent):
                vaults.mine.renew(accessor)
            count += 2
        return count

    def ended(found: tuple[str, BareGrant]) -> None:
        vaults.mine.revoke(found[1].top)
        vaults.mine.forget(found[0])

    with ThreadPoolExecutor(THREADS) as pool:
        grants = await asyncio.gather(*(loop.run_in_executor(pool, minted, number) for number in range(THREADS)))
        until_s = time.monotonic() + seconds
        counts = await asyncio.gather(*(loop.run_in_executor(pool, renewing, grant, until_s) for grant in grants))
        await asyncio.gather(*(loop.run_in_executor(pool, ended, grant) for grant in grants))
    return sum(counts) / seconds


def _accessor(message: Any) -> str:
    return str(json.loads(message.value)["accessor"])
