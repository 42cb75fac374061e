"""From a sealed grant to an attempt's credential."""

from __future__ import annotations

from collections.abc import Callable

from sluice_agent_runner.ports import VaultRefused
from sluice_agent_runner.supervision.credential import Credential, OwnSecrets
from sluice_agent_runner.supervision.services import Services
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.token import Grant
from sluice_runtime.vault.names import grant_context


class GrantRefused(Exception):
    """Vault does not open the grant as this queue's and this attempt's: it was sealed for another, or by nobody."""


class VaultUnknown(Exception):
    """There is a grant, and this runner was told of no Vault: set SLUICE_VAULT_ADDR."""


async def open_grant(
    services: Services,
    pipeline_id: str,
    run: AgentRun,
    grant: Grant,
    queue: str,
    *,
    deadline: Callable[[], int],
    secrets: OwnSecrets,
    waiting: Callable[[], None],
) -> Credential:
    """Opens an attempt's grant; waits for a Vault that is away until the deadline, or until the grant expires.

    `secrets` learns of the token; `waiting` is called once if Vault has to be waited for.

    Raises:
        GrantRefused: It is not this attempt's.
        VaultUnknown: This runner has no Vault.
        VaultAway: Vault was away too long.
    """
    if services.vault is None:
        raise VaultUnknown("the attempt has a grant, and this runner no Vault to open it: set SLUICE_VAULT_ADDR")
    context = grant_context(pipeline_id, run.agent_id, run.attempt)
    until_ms = min(deadline(), grant.expires_at_ms)
    try:
        token = await services.vault.open_grant(queue, context, grant.sealed, until_ms=until_ms, waiting=waiting)
    except VaultRefused as error:
        raise GrantRefused(f"the grant of queue {queue}, context {context}: {error}") from None
    secrets.add(token)
    return Credential(services.vault, services.time, token, grant.expires_at_ms, deadline, secrets)
