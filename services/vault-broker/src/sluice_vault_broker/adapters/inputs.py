"""Answers of Vault as inputs of the decider."""

from __future__ import annotations

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.ids import derived_id
from sluice_contracts.messages.base import Message
from sluice_runtime.processor.partition import Injected
from sluice_vault_broker.domain.building import SOURCE
from sluice_vault_broker.domain.facts import OrphanFound, VaultGone, VaultMinted, VaultRenewed, VaultRevoked


def injected(pipeline_id: str, tenant: str, message: Message, now_ms: int) -> Injected:
    """An answer about a pipeline. What is the same answer has the same id."""
    match message:
        case VaultRenewed(accessor=accessor, expires_at_ms=expires_at_ms):
            identity = derived_id(message.type, accessor, expires_at_ms)
        case VaultMinted(accessor=accessor) | VaultGone(accessor=accessor):
            identity = derived_id(message.type, accessor)
        case VaultRevoked(accessor=accessor, also=also):
            identity = derived_id(message.type, accessor, *also)
        case OrphanFound(accessor=accessor):
            identity = derived_id(message.type, accessor)
        case _:
            raise TypeError(f"{message.type} is no answer of Vault")
    return Injected(CloudEvent(identity, SOURCE, tenant, pipeline_id, now_ms, message))
