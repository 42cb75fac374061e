"""The names in Vault that several services share, and the policies that are made of a template.

The files beside this module are the one copy: `sluice vault apply` brings a Vault to them, vault-broker renders a
pipeline's policy from `policies/pipeline-agent.hcl` at grant time. `deploy/vault` leads here.
"""

from __future__ import annotations

import re
from importlib import resources

KV_MOUNT, TRANSIT_MOUNT = "secret", "transit"
BROKER, RUNNER, ORCHESTRATOR = "vault-broker", "agent-runner", "pipeline-orchestrator"
"""AppRole roles: of two services, and the one by which vault-broker logs in once for each pipeline."""
PIPELINE_TOKEN_ROLE = "sluice-pipeline"  # noqa: S105
"""The token role by which the orchestrator's login makes a pipeline's root token."""
BROKER_KEY = "sluice-broker"
"""The transit key that vault-broker alone may use: it seals the tokens with which others are made."""
API_KEY_FIELD = "api_key"
"""The member of a secret at `secret/api-keys/<provider>` that holds the provider's key."""
PARENT_POLICY = "sluice-parent"
"""What a token needs to have children. Theirs never go beyond its own: Vault refuses it."""

_PIPELINE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_QUEUE = re.compile(r"[a-z0-9_](?:[a-z0-9_.\-]{0,126}[a-z0-9_])?")
"""Narrower than a topic's: Vault writes names of policies in lower case, and a key's does not end in '-' or '.'."""


def policy_text(name: str) -> str:
    """The text of a policy, or of a policy's template, as it stands in its file."""
    return resources.files(__package__).joinpath("policies", f"{name}.hcl").read_text(encoding="utf-8")


def queue_name(queue: str) -> str:
    """The name of a queue's transit key, and of the policy that lets its runners decrypt.

    Raises:
        ValueError: Vault could not keep this queue apart from another one.
    """
    if not _QUEUE.fullmatch(queue):
        raise ValueError(
            f"queue {queue!r} can't have a key in Vault; name it in lower case, letters, digits, '_', '-' and '.', the "
            "last two not at its end"
        )
    return f"sluice-queue-{queue}"


def queue_policy(queue: str) -> str:
    """The text of a queue's policy.

    Raises:
        ValueError: As for `queue_name`.
    """
    return policy_text("queue").replace("{key}", queue_name(queue))


def pipeline_policy_name(pipeline_id: str) -> str:
    """The name of a pipeline's own policy.

    Raises:
        ValueError: That is no pipeline's id: in lower case, as every service writes it.
    """
    if not _PIPELINE_ID.fullmatch(pipeline_id):
        raise ValueError(f"{pipeline_id[:80]!r} is no pipeline id; it is a UUID in lower case")
    return f"sluice-pipeline-{pipeline_id}"


def pipeline_policy(pipeline_id: str) -> str:
    """The text of a pipeline's own policy (V2).

    One for each pipeline, because Vault keeps one alias for all logins of an AppRole role: a policy templated on the
    alias's metadata would open to a pipeline what belongs to the one that logged in last.

    Raises:
        ValueError: As for `pipeline_policy_name`: what stands in a path is an id, and no pattern.
    """
    pipeline_policy_name(pipeline_id)
    return policy_text("pipeline-agent").replace("{pipeline_id}", pipeline_id)


def grant_context(pipeline_id: str, agent_id: str, attempt: int) -> str:
    """What a grant's ciphertext is bound to, as transit's `context` (which wants it in base64).

    It is no right: whoever may decrypt with the queue's key can name any context. It makes a grant that is moved to
    another attempt's record unreadable there.
    """
    return f"{pipeline_id}/{agent_id}/{attempt}"
