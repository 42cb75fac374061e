"""Whether a task can be done at all: what no turn could repair is told before the first one is paid."""

from __future__ import annotations

from collections.abc import Mapping

from sluice_agent_runner.domain.actions import Fail, failure
from sluice_agent_runner.domain.conclusion import Conditions
from sluice_agent_runner.domain.result_schema import InvalidOutputSchema
from sluice_agent_runner.domain.tools import FORBIDDEN_BY, WRITE_ARTIFACT, ToolDefinition, granted
from sluice_contracts.messages.plan import TaskSpec
from sluice_runtime.role import Role


def admit(
    task: TaskSpec, role: Role, conditions: Conditions, catalogue: Mapping[str, ToolDefinition]
) -> tuple[ToolDefinition, ...] | Fail:
    """The tools that the task's agent is granted, or why the task can't be done."""
    for constraint in task.constraints:
        if constraint not in FORBIDDEN_BY:
            return failure(
                "unknown_constraint",
                f"constraint {constraint!r} of task {task.id} is unknown; known are {sorted(FORBIDDEN_BY)}",
            )
    for name in role.tools:
        if name not in catalogue:
            return failure("unknown_tool", f"role {role.name} grants {name!r}; there are {sorted(catalogue)}")
    tools = granted(role.tools, task.constraints, catalogue)
    if task.expected_artifacts and WRITE_ARTIFACT not in tools:
        return failure(
            "contradictory_task",
            f"task {task.id} must write {task.expected_artifacts[0].name!r}, but its role and constraints leave it "
            "no write_artifact; drop the artifact or the constraint",
        )
    try:
        conditions.check()
    except InvalidOutputSchema as error:
        return failure("invalid_output_schema", str(error))
    return tools
