"""When a task counts as done: its artifacts are written, its result has the form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sluice_agent_runner.domain import limits
from sluice_agent_runner.domain.conversation import Conclusion, WrittenArtifact
from sluice_agent_runner.domain.result_schema import ResultSchema, compile_schema
from sluice_contracts.messages.plan import TaskSpec
from sluice_runtime.role import Role


class Conditions:
    """The conditions of one task. The task's output schema wins over its role's."""

    def __init__(self, task: TaskSpec, role: Role) -> None:
        self._task = task
        self.output_schema: dict[str, Any] | None = (
            task.output_schema if task.output_schema is not None else role.output_schema
        )
        self._schema: ResultSchema | None = None

    def check(self) -> None:
        """Checks the conditions themselves.

        Raises:
            InvalidOutputSchema: The output schema is wrong.
        """
        if self.output_schema is not None:
            self._schema = compile_schema(self.output_schema)

    def conclude(
        self, summary: str, result: Any, artifacts: Mapping[str, WrittenArtifact]
    ) -> tuple[Conclusion | None, list[str]]:
        """The conclusion, or what is missing, in sentences for the model.

        A text that holds JSON counts as that JSON where only that satisfies the schema: models often quote it.

        Raises:
            InvalidOutputSchema: Applying the output schema shows that it is wrong.
        """
        faults = self._missing(artifacts)
        value = summary if result is None else result
        if self._schema is not None:
            found = self._schema.faults(value)
            if found and isinstance(value, str):
                try:
                    value = msgspec.json.decode(value)
                except (msgspec.DecodeError, UnicodeError, RecursionError):
                    faults += found
                else:
                    faults += self._schema.faults(value)
            else:
                faults += found
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        size_bytes = len(text.encode())
        if size_bytes > limits.RESULT_MAX_BYTES:
            faults.append(
                f"the result has {size_bytes} bytes; at most {limits.RESULT_MAX_BYTES} are taken: write an artifact"
            )
        return (None, faults) if faults else (Conclusion(summary, text), [])

    def _missing(self, artifacts: Mapping[str, WrittenArtifact]) -> list[str]:
        faults = []
        for expected in self._task.expected_artifacts:
            written = artifacts.get(expected.name)
            if written is None:
                faults.append(f"artifact {expected.name} is not written; write it with write_artifact")
            elif expected.kind is not None and written.kind != expected.kind:
                faults.append(f"artifact {expected.name} is of kind {written.kind}; it must be of kind {expected.kind}")
        return faults
