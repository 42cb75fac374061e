"""One pipeline's entities as a decision sees them: the state, with the decision's own changes laid over it."""

from __future__ import annotations

from collections.abc import Iterator

from sluice_runtime.deciding import EntityView
from sluice_vault_broker.domain.state import (
    AgentEntity,
    AgentsEntity,
    DecidedCommandsEntity,
    FinishedPipeline,
    PipelineEntity,
    RevocationEntity,
    TokenEntity,
)


class View(EntityView):
    """Reads and writes the entities of one pipeline's credentials."""

    __slots__ = ()

    # The pipeline

    def find_pipeline(self) -> PipelineEntity | None:
        """The pipeline, if it asked for a credential and has not ended."""
        return self._find("pipeline", PipelineEntity)

    def pipeline(self) -> PipelineEntity:
        """The pipeline, which must be known."""
        return self._get("pipeline", PipelineEntity)

    def put_pipeline(self, entity: PipelineEntity | None) -> None:
        """Writes or deletes the pipeline."""
        self._put("pipeline", entity)

    def find_finished(self) -> FinishedPipeline | None:
        """What remains of the pipeline, if it has ended."""
        return self._find("finished", FinishedPipeline)

    def put_finished(self, entity: FinishedPipeline | None) -> None:
        """Writes or deletes what remains of the pipeline."""
        self._put("finished", entity)

    def decided_commands(self) -> DecidedCommandsEntity:
        """The commands that are remembered by their ids."""
        return self._find("refusals", DecidedCommandsEntity) or DecidedCommandsEntity()

    def put_decided_commands(self, entity: DecidedCommandsEntity | None) -> None:
        """Writes or deletes the commands that are remembered by their ids."""
        self._put("refusals", entity)

    # Its agents

    def find_agent(self, agent_id: str) -> AgentEntity | None:
        """What was last asked for an agent."""
        return self._find(f"agent/{agent_id}", AgentEntity)

    def put_agent(self, agent_id: str, entity: AgentEntity | None) -> None:
        """Writes or deletes what was last asked for an agent."""
        self._put(f"agent/{agent_id}", entity)

    def agents(self) -> tuple[str, ...]:
        """The agents that have a token, or will have one."""
        entity = self._find("agents", AgentsEntity)
        return () if entity is None else entity.ids

    def put_agents(self, ids: tuple[str, ...]) -> None:
        """Writes who has a token, or will have one."""
        self._put("agents", AgentsEntity(ids=ids) if ids else None)

    def known_agents(self) -> Iterator[str]:
        """All agents for which anything was ever asked, the last one first."""
        agent_id = self.pipeline().last_agent
        while agent_id is not None:
            previous = self._get(f"agent/{agent_id}", AgentEntity).previous
            yield agent_id
            agent_id = previous

    # Tokens

    def find_token(self, agent_id: str | None) -> TokenEntity | None:
        """An agent's token, or the pipeline's own; wanted or alive."""
        return self._find(_token(agent_id), TokenEntity)

    def token(self, agent_id: str | None) -> TokenEntity:
        """An agent's token, or the pipeline's own, which must be there."""
        return self._get(_token(agent_id), TokenEntity)

    def put_token(self, agent_id: str | None, entity: TokenEntity | None) -> None:
        """Writes or deletes a token."""
        self._put(_token(agent_id), entity)

    def tokens(self) -> Iterator[TokenEntity]:
        """All tokens, the pipeline's own first."""
        for agent_id in (None, *self.agents()):
            entity = self.find_token(agent_id)
            if entity is not None:
                yield entity

    def parent_of(self, token: TokenEntity) -> TokenEntity | None:
        """The token that one is below, or will be; None for the pipeline's own, and where there is none."""
        if token.agent_id is None:
            return None
        parent = None if token.parent_agent_id is None else self.find_token(token.parent_agent_id)
        return parent if parent is not None and parent.is_parent else self.find_token(None)

    def find_revocation(self, accessor: str) -> RevocationEntity | None:
        """A token that must end."""
        return self._find(f"revocation/{accessor}", RevocationEntity)

    def put_revocation(self, accessor: str, entity: RevocationEntity | None) -> None:
        """Writes or deletes what must end."""
        self._put(f"revocation/{accessor}", entity)


def _token(agent_id: str | None) -> str:
    return "root" if agent_id is None else f"token/{agent_id}"
