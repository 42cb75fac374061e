"""One pipeline's entities as a decision sees them: the state, with the decision's own changes laid over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from sluice_runtime.deciding import Entity, State, Timer
from sluice_vault_broker.domain.state import (
    AgentEntity,
    AgentsEntity,
    FinishedPipeline,
    PipelineEntity,
    RefusalsEntity,
    RevocationEntity,
    TokenEntity,
)

E = TypeVar("E", bound=Entity)


class View:
    """Reads and writes the entities of one pipeline's credentials; `deltas` is what was written.

    Reading an entity of another class than its key says, or one that must be there and is not, raises
    `AssertionError`: the state is damaged, and the processor must stop.
    """

    __slots__ = ("_state", "deltas", "pipeline_id")

    def __init__(self, state: State, pipeline_id: str) -> None:
        self._state = state
        self.pipeline_id = pipeline_id
        self.deltas: dict[str, Entity | None] = {}

    def _find(self, name: str, cls: type[E]) -> E | None:
        key = f"{self.pipeline_id}/{name}"
        entity = self.deltas[key] if key in self.deltas else self._state.get(key)
        assert entity is None or type(entity) is cls, f"{key} is a {type(entity).__name__}, not a {cls.__name__}"
        return entity

    def _put(self, name: str, entity: Entity | None) -> None:
        key = f"{self.pipeline_id}/{name}"
        if entity is None and key not in self._state:
            self.deltas.pop(key, None)
        else:
            self.deltas[key] = entity

    # The pipeline

    def find_pipeline(self) -> PipelineEntity | None:
        """The pipeline, if it asked for a credential and has not ended."""
        return self._find("pipeline", PipelineEntity)

    def pipeline(self) -> PipelineEntity:
        """The pipeline, which must be known."""
        entity = self.find_pipeline()
        assert entity is not None, f"{self.pipeline_id}/pipeline is missing"
        return entity

    def put_pipeline(self, entity: PipelineEntity | None) -> None:
        """Writes or deletes the pipeline."""
        self._put("pipeline", entity)

    def find_finished(self) -> FinishedPipeline | None:
        """What remains of the pipeline, if it has ended."""
        return self._find("finished", FinishedPipeline)

    def put_finished(self, entity: FinishedPipeline | None) -> None:
        """Writes or deletes what remains of the pipeline."""
        self._put("finished", entity)

    def refusals(self) -> RefusalsEntity:
        """The commands that are remembered by their ids."""
        return self._find("refusals", RefusalsEntity) or RefusalsEntity()

    def put_refusals(self, entity: RefusalsEntity | None) -> None:
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
            entity = self.find_agent(agent_id)
            assert entity is not None, f"{self.pipeline_id}/agent/{agent_id} is missing"
            previous = entity.previous
            yield agent_id
            agent_id = previous

    # Tokens

    def find_token(self, agent_id: str | None) -> TokenEntity | None:
        """An agent's token, or the pipeline's own; wanted or alive."""
        return self._find(_token(agent_id), TokenEntity)

    def token(self, agent_id: str | None) -> TokenEntity:
        """An agent's token, or the pipeline's own, which must be there."""
        entity = self.find_token(agent_id)
        assert entity is not None, f"{self.pipeline_id}/{_token(agent_id)} is missing"
        return entity

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

    # Timers

    def find_timer(self, name: str) -> Timer | None:
        """A timer, if it is set."""
        return self._find(f"timer/{name}", Timer)

    def set_timer(self, name: str, due_at_ms: int, tenant: str) -> None:
        """Sets a timer, in the place of the one of that name; its generation is the time at which it is due."""
        timer = Timer(pipeline_id=self.pipeline_id, name=name, due_at_ms=due_at_ms, generation=due_at_ms, tenant=tenant)
        self._put(f"timer/{name}", timer)

    def delete_timer(self, name: str) -> None:
        """Deletes a timer, if it is set."""
        self._put(f"timer/{name}", None)


def _token(agent_id: str | None) -> str:
    return "root" if agent_id is None else f"token/{agent_id}"
