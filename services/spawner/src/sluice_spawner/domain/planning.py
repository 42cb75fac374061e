"""From the contract's plan to the workflow core, and what a plan may not be."""

from __future__ import annotations

import msgspec

from sluice_contracts import ids
from sluice_contracts.messages.pipeline import PipelineSpawn
from sluice_contracts.messages.plan import Plan, TaskSpec
from sluice_spawner.domain import workflow
from sluice_spawner.domain.errors import SpawnLimitExceeded, SpawnRefused, listed
from sluice_spawner.domain.policy import KNOWN_CONSTRAINTS, PLAN_MAX_BYTES, TASK_MAX_BYTES, RoleCatalogue


def nodes_of(plan: Plan) -> list[workflow.Node]:
    """The plan's tasks as nodes, in its order."""
    return [workflow.Node(task.id, tuple((edge.task, edge.on) for edge in task.dependencies)) for task in plan.tasks]


def spec_json(plan: Plan, task: TaskSpec) -> str:
    """A task's specification as it is kept, with the plan's model where it names none."""
    if task.model is None and plan.model is not None:
        task = task.model_copy(update={"model": plan.model})
    return task.model_dump_json(exclude_defaults=True)


def check(
    command: PipelineSpawn, *, pipeline_id: str, tenant: str, roles: RoleCatalogue, diagnostic_depth_max: int
) -> None:
    """Checks all of a plan that can be known before it runs.

    Raises:
        SpawnRefused: With a code, the field and the next step.
        SpawnLimitExceeded: A limit of P13 does not admit it.
    """
    _check_id(command, pipeline_id, tenant)
    _check_depth(command, diagnostic_depth_max)
    workflow.check(
        nodes_of(command.plan),
        max_fan_out=command.plan.limits.max_fan_out,
        max_depth=command.plan.limits.max_depth,
    )
    for index, task in enumerate(command.plan.tasks):
        _check_task(task, f"plan.tasks.{index}", roles)
    _check_sizes(command.plan)


def _check_id(command: PipelineSpawn, pipeline_id: str, tenant: str) -> None:
    if command.dedupe_key is None:
        return
    expected = ids.pipeline_id(tenant, command.dedupe_key)
    if pipeline_id != expected:
        raise SpawnRefused(
            f"dedupe key {command.dedupe_key!r} of tenant {tenant} names pipeline {expected}, not {pipeline_id}; "
            f"produce the command under that id, or without a dedupe key",
            code="dedupe_key_mismatch",
            field="dedupe_key",
        )


def _check_depth(command: PipelineSpawn, depth_max: int) -> None:
    """Whoever is asked for by hand counts as well. A first diagnostic can be asked for even where none follows."""
    about = command.diagnosed
    if about is not None and about.depth > max(1, depth_max):
        raise SpawnLimitExceeded(
            f"pipeline {about.pipeline_id} is a diagnostic itself, and a diagnostic of depth {about.depth} is asked "
            f"for; read its handoff report, or raise SLUICE_DIAGNOSTIC_DEPTH_MAX",
            code="diagnostic_too_deep",
            field="diagnosed.depth",
            limit=f"SLUICE_DIAGNOSTIC_DEPTH_MAX: {depth_max}",
        )


def _check_task(task: TaskSpec, field: str, roles: RoleCatalogue) -> None:
    queue = roles.queue_of.get(task.role)
    if queue is None:
        raise SpawnRefused(
            f"task {task.id} needs role {task.role}, which does not exist; known are {listed(sorted(roles.queue_of))}",
            code="unknown_role",
            field=f"{field}.role",
        )
    if queue not in roles.queues:
        # All of them: what `topics apply` is not told of loses its rights.
        options = " ".join(f"--queue {one}" for one in sorted({*roles.queues, queue}))
        raise SpawnRefused(
            f"task {task.id} needs role {task.role}, whose queue {queue} this spawner does not serve; create its "
            f"topics (`sluice topics apply {options}`), add {queue} to SLUICE_QUEUES of the spawner and of a runner, "
            f"restart them",
            code="unprovisioned_queue",
            field=f"{field}.role",
        )
    for constraint in task.constraints:
        if constraint not in KNOWN_CONSTRAINTS:
            raise SpawnRefused(
                f"task {task.id} has constraint {constraint}, which nobody would enforce; known are "
                f"{listed(KNOWN_CONSTRAINTS)}",
                code="unknown_constraint",
                field=f"{field}.constraints",
            )


def _check_sizes(plan: Plan) -> None:
    """Refuses what would not fit into the messages that carry it."""
    size = len(plan.model_dump_json(exclude_defaults=True).encode())
    if size > PLAN_MAX_BYTES:
        raise SpawnLimitExceeded(
            f"the plan has {size} bytes; at most {PLAN_MAX_BYTES} may travel: put long texts into input artifacts",
            code="plan_too_large",
            field="plan",
            limit=f"PLAN_MAX_BYTES: {PLAN_MAX_BYTES} bytes",
        )
    shared = len(msgspec.json.encode(plan.objective))
    shared += sum(len(ref.model_dump_json().encode()) + 1 for ref in plan.inputs)
    for index, task in enumerate(plan.tasks):
        size = shared + len(spec_json(plan, task).encode())
        if size > TASK_MAX_BYTES:
            raise SpawnLimitExceeded(
                f"task {task.id} has {size} bytes with the plan's objective and inputs; at most {TASK_MAX_BYTES} may "
                f"be handed to a runner: put long texts into input artifacts",
                code="task_too_large",
                field=f"plan.tasks.{index}",
                limit=f"TASK_MAX_BYTES: {TASK_MAX_BYTES} bytes",
            )
