"""The names in Vault that several services share, and the policies that are made of a template.

The files beside this module are the one copy: `sluice vault apply` brings a Vault to them. `deploy/vault` leads here.
"""

from __future__ import annotations

import re
from importlib import resources

from sluice_contracts.limits import IDENTIFIER_PATTERN

KV_MOUNT, TRANSIT_MOUNT = "secret", "transit"
BROKER, RUNNER, ORCHESTRATOR = "vault-broker", "agent-runner", "pipeline-orchestrator"
"""AppRole roles: of two services, and the one by which vault-broker logs in once for each pipeline."""
PIPELINE_TOKEN_ROLE = "sluice-pipeline"  # noqa: S105
"""The token role by which the orchestrator's login makes a pipeline's root token."""
BROKER_KEY = "sluice-broker"
"""The transit key that vault-broker alone may use: it seals the tokens with which others are made."""
TOKEN_ACCESSOR = "{token_accessor}"  # noqa: S105
"""In a policy's text: the accessor of the mount `token/`, under which the aliases of pipelines stand."""
API_KEYS_PATH = f"{KV_MOUNT}/data/api-keys"
"""Below it, by its provider's name, stands each key; the policy of pipelines' tokens opens it."""
API_KEY_FIELD = "api_key"
"""The field of such a secret that holds the key."""
PIPELINE_POLICY = "pipeline-agent"
"""Of every token of every pipeline: which secrets it opens is said by the token's entity (V2)."""
PARENT_POLICY = "sluice-parent"
"""What a token needs to have children. Theirs never go beyond its own: Vault refuses it."""

_PIPELINE_ID = re.compile(IDENTIFIER_PATTERN.replace("$", r"\Z"))
_QUEUE = re.compile(r"[a-z0-9_](?:[a-z0-9_.\-]{0,126}[a-z0-9_])?")
"""Narrower than a topic's: Vault writes names of policies in lower case, and a key's does not end in '-' or '.'."""


def policy_text(name: str) -> str:
    """The text of a policy, or of a policy's template, as it stands in its file.

    `TOKEN_ACCESSOR` in it stands for the accessor of the Vault's own mount `token/`, which each Vault makes for itself.
    """
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


def pipeline_alias(pipeline_id: str) -> str:
    """The name of a pipeline's alias in Vault, which is its folder below `secret/agents/` as well.

    It is the id itself, but a capital is written as `~` and its small letter, since Vault takes aliases that differ in
    case for one. No id has a `~`, so no two pipelines have one alias.

    Raises:
        ValueError: That is no pipeline's id. In a path, `+` would be a pattern, and `/` another pipeline's folder.
    """
    if not _PIPELINE_ID.match(pipeline_id):
        raise ValueError(f"{pipeline_id[:80]!r} is no pipeline id: {IDENTIFIER_PATTERN}")
    return re.sub("[A-Z]", lambda found: f"~{found[0].lower()}", pipeline_id)


def pipeline_of_alias(alias: str) -> str | None:
    """The pipeline whose alias this is; None if it is no pipeline's."""
    pipeline_id = re.sub("~[a-z]", lambda found: found[0][1].upper(), alias)
    return pipeline_id if _PIPELINE_ID.match(pipeline_id) and pipeline_alias(pipeline_id) == alias else None


def grant_context(pipeline_id: str, agent_id: str, attempt: int) -> str:
    """What a grant's ciphertext is bound to, as transit's `context` (which wants it in base64).

    It is no right: whoever may decrypt with the queue's key can name any context. It makes a grant that is moved to
    another attempt's record unreadable there.
    """
    return f"{pipeline_id}/{agent_id}/{attempt}"
