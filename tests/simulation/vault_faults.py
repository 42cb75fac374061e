"""What goes wrong around the simulated vault-broker."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class VaultFaults:
    """How often what goes wrong, per step or per call of Vault."""

    crash: float = 0.0
    freeze: float = 0.0
    second_instance: float = 0.0
    jump: float = 0.0
    redeliver: float = 0.0
    away: float = 0.0
    lost_answer: float = 0.0
    overloaded: float = 0.0
    refused: float = 0.0
    restarted: float = 0.0
    ended_by_hand: float = 0.0
    entity_deleted: float = 0.0
    stuck: float = 0.0

    @classmethod
    def all(cls) -> VaultFaults:
        """Everything, less often than each by itself."""
        return cls(**{one.name: getattr(KINDS[one.name], one.name) / 2 for one in fields(cls)})


KINDS: dict[str, VaultFaults] = {
    "crash": VaultFaults(crash=0.01),
    "freeze": VaultFaults(freeze=0.008, second_instance=0.02),
    "second_instance": VaultFaults(second_instance=0.02),
    "jump": VaultFaults(jump=0.005),
    "redeliver": VaultFaults(redeliver=0.02),
    "away": VaultFaults(away=0.003),
    "lost_answer": VaultFaults(lost_answer=0.1),
    "overloaded": VaultFaults(overloaded=0.2),
    "refused": VaultFaults(refused=0.1),
    "restarted": VaultFaults(restarted=0.004),
    "ended_by_hand": VaultFaults(ended_by_hand=0.01),
    "entity_deleted": VaultFaults(entity_deleted=0.005),
    "stuck": VaultFaults(stuck=0.01),
}
"""One of each kind, by itself."""
