"""Why there is no credential, or nothing to revoke or to renew: the codes, and what is told to people.

A command of a person (`token.revoke` for the reason manual, `token.renew`) is answered once by its id: it is done, or
denied and has changed nothing. The spawner's revocations are not answered by a denial: most end what may have ended.
"""

from __future__ import annotations

from sluice_contracts.envelope import SYSTEM_TENANT
from sluice_contracts.messages.token import RevocationReason
from sluice_vault_broker.domain.building import DecisionBuilder

REVOKED_CODE = "credentials_revoked"
ENDED_CODE = "pipeline_ended"
UNKNOWN_CODE = "unknown_pipeline"
SUPERSEDED_CODE = "attempt_superseded"
CLOSED_CODE = "attempt_revoked"
NONE_CODE = "no_credential"


def revoked_detail(reason: RevocationReason) -> str:
    """What is told to whoever asks for a credential of a pipeline that lost them all."""
    return f"all credentials of the pipeline were revoked ({reason}); spawn another pipeline"


def unknown_detail(builder: DecisionBuilder) -> str:
    """What is told to a tenant that has no such pipeline, whoever else has."""
    return f"tenant {builder.cause.tenant} has no pipeline {builder.pipeline_id}"


def open_to_people(builder: DecisionBuilder, agent_id: str | None = None, attempt: int | None = None) -> bool:
    """Whether a person's command is new, and its pipeline may have credentials; if not, it is denied.

    Args:
        builder: The decision.
        agent_id: Whose credential the command is about; None: all of the pipeline.
        attempt: Which attempt's.
    """
    view, pipeline_id = builder.view, builder.pipeline_id
    if builder.decided:
        return False
    pipeline, finished = view.find_pipeline(), view.find_finished()
    known = pipeline or finished
    if known is not None and builder.cause.tenant not in (known.tenant, SYSTEM_TENANT):
        detail = f"{unknown_detail(builder)}; correct the tenant or the pipeline's id"
        builder.deny(UNKNOWN_CODE, detail, agent_id=agent_id, attempt=attempt)
    elif finished is not None:
        detail = f"pipeline {pipeline_id} has ended, and its credentials with it; nothing is left to do"
        builder.deny(ENDED_CODE, detail, agent_id=agent_id, attempt=attempt)
    elif pipeline is not None and pipeline.revoked is not None:
        detail = (
            f"all credentials of pipeline {pipeline_id} were revoked already ({pipeline.revoked}); see when Vault has "
            f"ended them: sluice tokens {pipeline_id}"
        )
        builder.deny(REVOKED_CODE, detail, agent_id=agent_id, attempt=attempt)
    else:
        return True
    return False
