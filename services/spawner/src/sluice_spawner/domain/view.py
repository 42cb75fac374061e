"""One pipeline's entities as a decision sees them: the state, with the decision's own changes laid over it."""

from __future__ import annotations

from sluice_contracts.ids import derived_id
from sluice_runtime.deciding import EntityView
from sluice_spawner.domain.state import (
    AgentEntity,
    FinishedPipeline,
    PipelineEntity,
    PlanEntity,
    QuestionEntity,
    RefusalsEntity,
    RequestEntity,
    SequenceEntity,
    TaskEntity,
    TaskSpecEntity,
)
from sluice_spawner.domain.state_admission import ClaimEntity, PoolEntity
from sluice_spawner.domain.state_blackboard import BlackboardEntity, KeyEntity


class View(EntityView):
    """Reads and writes one pipeline's entities, or the installation's."""

    __slots__ = ()

    # The pipeline

    def find_pipeline(self) -> PipelineEntity | None:
        """The pipeline, if it lives."""
        return self._find("pipeline", PipelineEntity)

    def pipeline(self) -> PipelineEntity:
        """The living pipeline."""
        return self._get("pipeline", PipelineEntity)

    def put_pipeline(self, entity: PipelineEntity | None) -> None:
        """Writes or deletes the pipeline."""
        self._put("pipeline", entity)

    def find_plan(self) -> PlanEntity | None:
        """The plan, if the pipeline lives."""
        return self._find("plan", PlanEntity)

    def plan(self) -> PlanEntity:
        """The living pipeline's plan."""
        return self._get("plan", PlanEntity)

    def put_plan(self, entity: PlanEntity | None) -> None:
        """Writes or deletes the plan."""
        self._put("plan", entity)

    def find_sequence(self) -> SequenceEntity | None:
        """The count of events, if the pipeline lives."""
        return self._find("sequence", SequenceEntity)

    def put_sequence(self, entity: SequenceEntity | None) -> None:
        """Writes or deletes the count of events."""
        self._put("sequence", entity)

    def find_finished(self) -> FinishedPipeline | None:
        """What remains of the pipeline, if it has ended."""
        return self._find("finished", FinishedPipeline)

    def put_finished(self, entity: FinishedPipeline | None) -> None:
        """Writes or deletes what remains of the pipeline."""
        self._put("finished", entity)

    def refusals(self) -> RefusalsEntity:
        """The inputs refused last."""
        return self._find("refusals", RefusalsEntity) or RefusalsEntity()

    def put_refusals(self, entity: RefusalsEntity | None) -> None:
        """Writes or deletes the inputs refused last."""
        self._put("refusals", entity)

    # Its parts

    def spec(self, task_id: str) -> TaskSpecEntity:
        """A task's unchanging part."""
        return self._get(f"spec/{task_id}", TaskSpecEntity)

    def put_spec(self, task_id: str, entity: TaskSpecEntity | None) -> None:
        """Writes or deletes a task's unchanging part."""
        self._put(f"spec/{task_id}", entity)

    def task(self, task_id: str) -> TaskEntity:
        """A task."""
        return self._get(f"task/{task_id}", TaskEntity)

    def put_task(self, task_id: str, entity: TaskEntity | None) -> None:
        """Writes or deletes a task."""
        self._put(f"task/{task_id}", entity)

    def agent_id(self, task_id: str) -> str:
        """The id of the agent that works on a task of the living pipeline: another in each life of the pipeline's id.

        So whatever is known of an agent, by runners and readers too, is never taken for something of a former life.
        """
        return derived_id("agent", self.pipeline_id, self.pipeline().created_at_ms, task_id)

    def find_agent(self, agent_id: str) -> AgentEntity | None:
        """An agent, if it was ever created."""
        return self._find(f"agent/{agent_id}", AgentEntity)

    def agent(self, agent_id: str) -> AgentEntity:
        """An agent."""
        return self._get(f"agent/{agent_id}", AgentEntity)

    def put_agent(self, agent_id: str, entity: AgentEntity | None) -> None:
        """Writes or deletes an agent."""
        self._put(f"agent/{agent_id}", entity)

    def find_question(self, question_id: str) -> QuestionEntity | None:
        """A question, if it was ever asked."""
        return self._find(f"question/{question_id}", QuestionEntity)

    def question(self, question_id: str) -> QuestionEntity:
        """A question."""
        return self._get(f"question/{question_id}", QuestionEntity)

    def put_question(self, question_id: str, entity: QuestionEntity | None) -> None:
        """Writes or deletes a question."""
        self._put(f"question/{question_id}", entity)

    def find_request(self, request_id: str) -> RequestEntity | None:
        """A request that asked a question, by the id of its message."""
        return self._find(f"request/{request_id}", RequestEntity)

    def put_request(self, request_id: str, entity: RequestEntity | None) -> None:
        """Writes or deletes a request."""
        self._put(f"request/{request_id}", entity)

    # Its blackboard

    def blackboard(self) -> BlackboardEntity:
        """The names of the blackboard's keys."""
        return self._find("blackboard", BlackboardEntity) or BlackboardEntity()

    def put_blackboard(self, entity: BlackboardEntity | None) -> None:
        """Writes or deletes the names of the blackboard's keys."""
        self._put("blackboard", entity)

    def find_key(self, name: str) -> KeyEntity | None:
        """A key of the blackboard, if it was ever written."""
        return self._find(f"blackboard/{name}", KeyEntity)

    def key(self, name: str) -> KeyEntity:
        """A key of the blackboard."""
        return self._get(f"blackboard/{name}", KeyEntity)

    def put_key(self, name: str, entity: KeyEntity | None) -> None:
        """Writes or forgets a key of the blackboard."""
        self._put(f"blackboard/{name}", entity)

    # The installation's slots

    def pool(self) -> PoolEntity:
        """The slots of all."""
        return self._find("pool", PoolEntity) or PoolEntity()

    def put_pool(self, entity: PoolEntity) -> None:
        """Writes the slots of all."""
        self._put("pool", entity)

    def find_claim(self, pipeline_id: str) -> ClaimEntity | None:
        """A pipeline's claim, if it has one."""
        return self._find(f"claim/{pipeline_id}", ClaimEntity)

    def claim(self, pipeline_id: str) -> ClaimEntity:
        """A pipeline's claim."""
        return self._get(f"claim/{pipeline_id}", ClaimEntity)

    def put_claim(self, pipeline_id: str, entity: ClaimEntity | None) -> None:
        """Writes or deletes a claim."""
        self._put(f"claim/{pipeline_id}", entity)
